"""Values become codes, and counts of codes: by comparison, by a grid of cells, by search trees."""
