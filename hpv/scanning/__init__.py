"""The mathematics of a sample: thresholds, levels, tallies, statistics, subsets."""
