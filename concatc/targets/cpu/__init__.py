"""The target `cpu`: Numba and LLVM."""
