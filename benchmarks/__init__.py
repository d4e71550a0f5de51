"""What hpv costs, beside what the machine can do at all in the same run: ``python -m benchmarks --help``."""
