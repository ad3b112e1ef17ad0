"""Many runs as one: what they are (`ledger`), which of them still have to run (`plan`), running them, searching, and telling what came out."""
