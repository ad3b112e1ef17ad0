"""The search for garbage rests while libraries are imported, and only then."""

import subprocess
import sys

SCRIPT = """
import gc
from lexalign.compat import first_imports, uncollected

before = gc.get_freeze_count()
with first_imports():
    assert not gc.isenabled()
    import trl
assert gc.isenabled() and gc.get_freeze_count() > before + 10_000, "what was imported is left alone from now on"

frozen = gc.get_freeze_count()
with first_imports():
    job = [[] for _ in range(1000)]
assert gc.get_freeze_count() == frozen, "what a later job made is its own"

with uncollected(), first_imports():
    pass
try:
    with uncollected():
        raise KeyError
except KeyError:
    assert gc.isenabled()
"""


def test_only_while_importing():
    subprocess.run([sys.executable, "-c", SCRIPT], check=True, timeout=120)
