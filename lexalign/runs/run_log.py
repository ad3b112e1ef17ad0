"""`run.log`, the messages on the terminal, and how an error is shown there."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from lexalign.config.secrets import RedactingFormatter, clean, clean_line
from lexalign.errors import ConfigError, LexAlignError

log = logging.getLogger(__name__)
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
LIBRARIES = ("transformers", "datasets", "trl", "peft", "accelerate", "huggingface_hub", "torch", "py.warnings")
# They log every URL of a request, also URLs that contain a signature.
URL_LOGGERS = ("httpx", "httpx2", "httpcore", "urllib3")


@contextmanager
def log_to_folder(out_dir: Path, *, verbose: bool, name: str = "run.log") -> Iterator[None]:
    """Within the block, our messages go to `run.log` and to the terminal. Those of libraries go to `run.log`, and to both if `verbose`."""
    root = logging.getLogger()
    file = logging.FileHandler(out_dir / name, encoding="utf-8")
    file.setFormatter(RedactingFormatter(FORMAT))
    terminal = logging.StreamHandler(sys.stderr)
    terminal.setFormatter(RedactingFormatter("%(message)s"))
    terminal.addFilter(lambda record: record.levelno >= logging.INFO and (verbose or record.name.startswith("lexalign")))
    previous_state = (root.level, list(root.handlers))
    # A parent runs within its child's block. Its messages go to its own file, and only once to the terminal.
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
        with suppress(OSError):  # on a full disk, closing fails; the first error matters more
            file.close()
        root.setLevel(previous_state[0])
        root.handlers = previous_state[1]


def print_error(error: Exception, *, job_name: str, out_dir: Path) -> None:
    """Print an error on the terminal: the message of a user's error; for other errors also the class and the path of the log."""
    if isinstance(error, ConfigError):
        message = "\n".join(f"{job_name}{clean_line(problem)}" for problem in error.problems)
    elif isinstance(error, LexAlignError):
        message = f"{job_name}{error}"
    else:
        log.debug("traceback", exc_info=error)
        message = f"{job_name}{type(error).__name__}: {error}\nThe traceback is in {out_dir / 'run.log'}"
    print(clean(message), file=sys.stderr)


def print_error_and_exit(error: LexAlignError) -> NoReturn:
    """Print the error that prevents a sweep, and exit with its code."""
    print_error(error, job_name="", out_dir=Path())
    sys.exit(error.exit_code)
