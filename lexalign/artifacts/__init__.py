"""What is written to the disk: files whole or not at all, manifests, fingerprints, results, checkpoints and locks."""
