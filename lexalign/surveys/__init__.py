"""Real surveys: make rows with beliefs, shares and groups from a table of respondents and a declaration of its columns."""
