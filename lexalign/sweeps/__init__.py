"""Many runs as one: the jobs (`ledger`), which of them must run (`plan`), running them, searching, and reporting the results."""
