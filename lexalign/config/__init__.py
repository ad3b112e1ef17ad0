"""Make a checked `Experiment` from the typed overrides: loading, overrides, parsing, targets, schema, rules."""
