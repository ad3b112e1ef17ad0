"""The fast path: log-probabilities of responses with no prompt computed twice and no position scored that trains nothing."""
