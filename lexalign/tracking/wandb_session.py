"""The wandb session of this process: its mode, what it may record, and how it ends."""

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
"""Seconds after wandb's own time limit until its service is killed."""


def choose_mode(mode: str | None) -> tuple[str, str | None]:
    """Return the mode for the run and, if it is not online, the reason. Looks the key up without a request or a prompt."""
    import wandb
    from wandb.sdk.lib import wbauth

    ambient = wandb.setup(wandb.Settings(silent=True)).settings
    if ambient.mode == "disabled":
        return "disabled", "WANDB_MODE or wandb's settings file says so"
    if ambient.mode in ("offline", "dryrun"):
        return "offline", "WANDB_MODE or wandb's settings file says so"
    if mode == "offline":
        return "offline", "tracking.mode=offline"
    missing = "no key is configured: `wandb login` or WANDB_API_KEY"
    try:
        key = wbauth.authenticate_session(host=ambient.base_url, source="lexalign", prompt=False, update_session=False)
    except wandb.errors.AuthenticationError as error:
        key, missing = None, shorten_error(error)
    if key:
        return "online", None
    if mode == "online":
        raise ConfigError(f"tracking.mode=online cannot log in ({missing}); or type tracking.mode=auto")
    return "offline", missing


def make_private_settings(settings: Tracking) -> "wandb.Settings":
    """Make settings with which wandb records what we give it, and of the machine only its load and its name."""
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
        # Write often: a killed service loses what it has not written.
        x_transaction_log_flush_interval=1.0,
        # Sent with each run. The default is a path of the user's machine.
        program="lexalign",
        init_timeout=settings.init_timeout,
        finish_timeout=settings.finish_timeout,
        finish_timeout_raises=True,
    )


@contextmanager
def kill_service_after(seconds: float) -> Iterator[threading.Event]:
    """Kill wandb's service process if the block takes longer than `seconds`; the yielded event is then set.

    wandb keeps its own deadlines only while its service is not stuck in a request, and waits for it without a limit.
    """
    from wandb.sdk import wandb_setup

    killed = threading.Event()
    connection = wandb_setup.singleton()._connection
    # A disabled run has no service. A service that another process started is left alone.
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
    """End wandb's service, so that it affects neither the next run of this process nor its exit."""
    import wandb

    # It raises SystemExit if the service was killed.
    with suppress(Exception, SystemExit), kill_service_after(GRACE):
        wandb.teardown()


def shorten_error(error: Exception) -> str:
    """Return the message of an error in one line."""
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def stage_tables_below(folder: Path) -> Iterator[None]:
    """Make wandb store its copy of a table in `folder`, not in the user's home. An offline run needs it for `wandb sync`."""
    if "WANDB_DATA_DIR" in os.environ:
        yield
        return
    os.environ["WANDB_DATA_DIR"] = str(folder)
    try:
        yield
    finally:
        del os.environ["WANDB_DATA_DIR"]
