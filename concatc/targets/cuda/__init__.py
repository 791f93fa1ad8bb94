"""The `cuda` target: a plan as device kernels in Numba-CUDA source, PTX and device code."""
