"""Compiled loops for processors: Numba, and vectors written in LLVM where they pay."""
