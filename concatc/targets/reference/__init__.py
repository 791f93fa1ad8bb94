"""The target `reference`: NumPy."""
