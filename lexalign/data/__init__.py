"""Rows: their files, their checks, and their tokens."""
