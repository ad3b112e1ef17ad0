"""The caches below `store` that runs share, keyed by content: tokenised rows, reference log-probabilities, preflight results."""
