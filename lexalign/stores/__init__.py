"""What runs share below `store`, by content and never by name: tokenised rows and the reference's log-probabilities."""
