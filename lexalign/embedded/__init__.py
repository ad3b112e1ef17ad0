"""The embedded quickstart: an invented valley, a tiny language model that knows it, and three data sets about it."""
