"""What a run looks at before its first step: the tokens it would train, the worst batch, the artifact saved and loaded again, the disk."""
