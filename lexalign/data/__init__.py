"""Rows: where they are, what they must look like, how they become tokens."""
