"""What runs share below `store`, by content and never by name: tokenised rows, the reference's log-probabilities, what preflight found."""
