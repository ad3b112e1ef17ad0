"""Real surveys: a table of respondents and a declaration of its columns become rows with beliefs, shares and groups."""
