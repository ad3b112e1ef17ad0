"""The search for garbage rests while libraries are imported, and only then."""

import subprocess
import sys

SCRIPT = """
import gc
from lexalign.compat import freeze_first_imports, pause_garbage_collection

before = gc.get_freeze_count()
with freeze_first_imports():
    assert not gc.isenabled()
    import transformers.trainer
assert gc.isenabled() and gc.get_freeze_count() > before + 10_000, "what was imported is left alone from now on"

frozen = gc.get_freeze_count()
with freeze_first_imports():
    job = [[] for _ in range(1000)]
assert gc.get_freeze_count() == frozen, "what a later job made is its own"

with pause_garbage_collection(), freeze_first_imports():
    pass
try:
    with pause_garbage_collection():
        raise KeyError
except KeyError:
    assert gc.isenabled()
"""


def test_only_while_importing():
    subprocess.run([sys.executable, "-c", SCRIPT], check=True, timeout=120)
