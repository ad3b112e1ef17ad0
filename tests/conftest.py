"""What every test process needs before a library reads its environment."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here may dial out; the tests of the download bring a hub of their own
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # several processes share the cores: waiting threads must not spin
