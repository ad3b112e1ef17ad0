"""Python imports this at the start of each process that a test starts: tests/conftest.py puts the folder on PYTHONPATH."""

import file_guard

file_guard.install()
