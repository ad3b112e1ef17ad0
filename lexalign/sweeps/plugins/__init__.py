"""Our part of the namespace `hydra_plugins`, the only place where Hydra looks for plugins."""

import sys
from pathlib import Path


def register() -> None:
    """Let this process import it; to be called before Hydra first looks."""
    here = str(Path(__file__).parent)
    if here not in sys.path:
        sys.path.append(here)
