"""Many runs as one: what they are (`ledger`), which still have to run (`plan`), running them, searching, telling what came out."""
