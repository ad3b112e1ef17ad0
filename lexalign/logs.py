"""`run.log`, and what of it reaches the terminal."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lexalign.secrets import Redacting

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
LIBRARIES = ("transformers", "datasets", "trl", "peft", "accelerate", "huggingface_hub", "torch", "py.warnings")
# They log every address they ask, those with a signature in them too.
URL_LOGGERS = ("httpx", "httpx2", "httpcore", "urllib3")


@contextmanager
def logged(out_dir: Path, *, verbose: bool, name: str = "run.log") -> Iterator[None]:
    """Within the block, our messages go to `run.log` and the terminal; the libraries' to `run.log`, to both when `verbose`."""
    root = logging.getLogger()
    file = logging.FileHandler(out_dir / name, encoding="utf-8")
    file.setFormatter(Redacting(FORMAT))
    terminal = logging.StreamHandler(sys.stderr)
    terminal.setFormatter(Redacting("%(message)s"))
    terminal.addFilter(lambda record: record.levelno >= logging.INFO and (verbose or record.name.startswith("lexalign")))
    before = (root.level, list(root.handlers))
    # A parent runs within its child's block: its messages belong to its own file, and once to the terminal.
    root.handlers = [file, terminal]
    root.setLevel(logging.INFO)
    logging.getLogger("lexalign").setLevel(logging.DEBUG)
    logging.captureWarnings(True)
    for name in LIBRARIES:
        logging.getLogger(name).propagate = True
    for name in URL_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        yield
    finally:
        with suppress(OSError):  # on a full disk it cannot write what it still holds; what ended the run matters more
            file.close()
        root.setLevel(before[0])
        root.handlers = before[1]
