"""What was typed becomes a checked `Experiment`: loading, overrides, parsing, targets, schema, rules."""
