"""Other batch sizes: what was compiled for one runs at another, or a few rows at a time (docs/PLAN.md)."""
