"""From a background and activations to codes, ranges and scores."""
