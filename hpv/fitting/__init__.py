"""From activations to a background: edges are proposed, then counted at."""
