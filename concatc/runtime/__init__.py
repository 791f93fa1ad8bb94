"""Bases, compiled modules and training."""
