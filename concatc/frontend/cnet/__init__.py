"""The `.cnet` language."""
