"""Languages that become IR."""
