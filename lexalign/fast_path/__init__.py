"""The fast path: log-probabilities of responses, without computing a prompt twice and without scoring positions that train nothing."""
