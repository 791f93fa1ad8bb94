"""Measurements of concatc beside its peers; nothing here is a test."""
