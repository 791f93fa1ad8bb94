"""Types, values, operations; their text; rewriting."""
