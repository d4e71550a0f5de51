"""How a walk over activations is planned inside a memory budget, and who goes through the blocks."""
