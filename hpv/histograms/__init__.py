"""The mathematics of a node: edges, counts that add up, p-value ranges. Arrays in, arrays out."""
