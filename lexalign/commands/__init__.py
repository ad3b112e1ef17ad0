"""What `lexalign` does beside runs: look at the machine, write the schema of the settings."""
