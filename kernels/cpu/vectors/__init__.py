"""Vectors written in LLVM, each operation with a portable form, and the tiles that they walk over."""
