"""Pieces, scalar expressions, plans and loop IR."""
