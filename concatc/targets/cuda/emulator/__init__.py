"""Runs generated CUDA source without a GPU: all threads in lockstep, each value a NumPy vector over them."""
