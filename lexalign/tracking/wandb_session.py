"""wandb's session in this process: the mode it works in, what it may record, and how it ends."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from lexalign.config.schema import Tracking
from lexalign.errors import ConfigError

if TYPE_CHECKING:
    import wandb

GRACE = 5.0
"""Seconds beyond its own time limits that wandb gets before its service is killed."""


def choose_mode(wanted: str | None) -> tuple[str, str | None]:
    """The mode to open the run in and, where it is not online, why. Looks up the key without dialling out or asking."""
    import wandb
    from wandb.sdk.lib import wbauth

    ambient = wandb.setup(wandb.Settings(silent=True)).settings
    if ambient.mode == "disabled":
        return "disabled", "WANDB_MODE or wandb's settings file says so"
    if ambient.mode in ("offline", "dryrun"):
        return "offline", "WANDB_MODE or wandb's settings file says so"
    if wanted == "offline":
        return "offline", "tracking.mode=offline"
    missing = "no key is configured: `wandb login` or WANDB_API_KEY"
    try:
        key = wbauth.authenticate_session(host=ambient.base_url, source="lexalign", prompt=False, update_session=False)
    except wandb.errors.AuthenticationError as error:
        key, missing = None, shorten_error(error)
    if key:
        return "online", None
    if wanted == "online":
        raise ConfigError(f"tracking.mode=online cannot log in ({missing}); or type tracking.mode=auto")
    return "offline", missing


def make_private_settings(settings: Tracking) -> "wandb.Settings":
    """Settings with which wandb records what we give it, and nothing of the machine but its load and its name."""
    import wandb

    return wandb.Settings(
        silent=True,
        console="off",
        disable_git=True,
        disable_code=True,
        save_code=False,
        # Reads the main script for labels.
        label_disable=True,
        # argv, the program, the executable, the user and the mail address in wandb-metadata.json.
        x_disable_meta=True,
        x_save_requirements=False,
        # What a killed service had not written is lost.
        x_transaction_log_flush_interval=1.0,
        # Sent with each run; a path of the user's machine if left alone.
        program="lexalign",
        init_timeout=settings.init_timeout,
        finish_timeout=settings.finish_timeout,
        finish_timeout_raises=True,
    )


@contextmanager
def kill_service_after(seconds: float) -> Iterator[threading.Event]:
    """End wandb's service process when the block takes longer; the event says that it came to that.

    wandb keeps its own deadlines only where its service is not itself stuck in a request, and waits for it without one.
    """
    from wandb.sdk import wandb_setup

    killed = threading.Event()
    connection = wandb_setup.singleton()._connection
    # A disabled run has no service; one that another process started is not ours to end.
    process = connection._proc._process if connection and connection._proc else None

    def kill() -> None:
        killed.set()
        if process:
            process.kill()
            process.wait()

    timer = threading.Timer(seconds, kill)
    timer.start()
    try:
        yield killed
    finally:
        timer.cancel()


def end_session() -> None:
    """End wandb's service, so that neither the next run of this process nor its exit meets what is left of this one."""
    import wandb

    # It raises SystemExit where the service was killed.
    with suppress(Exception, SystemExit), kill_service_after(GRACE):
        wandb.teardown()


def shorten_error(error: Exception) -> str:
    """The error in one line."""
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def stage_tables_below(folder: Path) -> Iterator[None]:
    """Let wandb keep its copy of a table here (an offline run needs it for `wandb sync`), not in the user's home."""
    if "WANDB_DATA_DIR" in os.environ:
        yield
        return
    os.environ["WANDB_DATA_DIR"] = str(folder)
    try:
        yield
    finally:
        del os.environ["WANDB_DATA_DIR"]
