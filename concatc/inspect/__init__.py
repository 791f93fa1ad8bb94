"""Answers to questions about a net."""
