"""Where a run's numbers are shown: on Weights & Biases, or nowhere.

`conf/tracking/` names one of these classes. A tracker is a context manager around a whole run, and a run is worth more than its
tracker: nothing that W&B does or fails to do ends, blocks or changes the run, and everything it fails to do is said in one line.
"""

import logging
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from lexalign.errors import ConfigError
from lexalign.schema import Tracking

if TYPE_CHECKING:
    import wandb

log = logging.getLogger(__name__)

MAX_NAME = 128
"""W&B's servers refuse longer names of runs and groups; a name made of overrides gets there."""


class Tracker(Protocol):
    """What a stage may ask of its tracker."""

    def __init__(
        self, settings: Tracking, out_dir: Path, config: dict[str, Any], run_name: str, group: str | None, job_type: str
    ):
        """Prepare a tracker. `config` is shown as it is, so the caller has removed what nobody may see."""

    def __enter__(self) -> Self:
        """Open the run."""

    def __exit__(self, *exception) -> None:
        """Close the run: finished, or failed where an exception passes through."""

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Record metrics of one optimizer step."""

    def summary(self, metrics: dict[str, float]) -> None:
        """Record metrics of the whole run."""

    def table(self, name: str, rows: list[dict[str, str]]) -> None:
        """Record rows as one table; columns in the order in which they first appear."""

    def artifact(self, path: Path) -> None:
        """Record where the run's artifact lies; nothing is uploaded."""


class NoTracker:
    """`tracking=none`: records nothing, imports nothing."""

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception) -> None:
        pass

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Record nothing."""

    def summary(self, metrics: dict[str, float]) -> None:
        """Record nothing."""

    def table(self, name: str, rows: list[dict[str, str]]) -> None:
        """Record nothing."""

    def artifact(self, path: Path) -> None:
        """Record nothing."""


class WandbTracker:
    """`tracking=wandb`: one W&B run for one run, below `out_dir/wandb`.

    Online where a key is configured, otherwise offline with the command that uploads it. `WANDB_MODE` (offline, disabled) wins
    over `tracking.mode`. A run that was interrupted online goes on as the same W&B run when it is resumed in its folder.
    """

    def __init__(
        self, settings: Tracking, out_dir: Path, config: dict[str, Any], run_name: str, group: str | None, job_type: str
    ):
        self._settings = settings
        self._out_dir = out_dir.absolute()
        self._config = config
        self._name = (settings.name or run_name)[:MAX_NAME]
        self._group = (settings.group or group or "")[:MAX_NAME] or None
        self._job_type = job_type
        self._lost: set[str] = set()

    def __enter__(self) -> Self:
        # wandb reads it when it starts its service: its own crash reports would carry pieces of our run elsewhere.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        self._mode, reason = _choose_mode(self._settings.mode)
        if reason:
            log.info("W&B: %s (%s)", self._mode, reason)
        try:
            self._run = self._open()
        except (wandb.errors.CommError, TimeoutError) as error:
            self._mode = "offline"
            log.warning("W&B: offline (the server did not open the run: %s)", _brief(error))
            # Ends the attempt, which would otherwise live on in wandb's service.
            wandb.teardown()
            self._run = self._open()
        if self._mode == "online":
            log.info("W&B: %s", self._run.url)
        # A step axis of our own: W&B's drops every step below its last one, and a resumed run repeats some.
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")
        return self

    def _open(self) -> "wandb.Run":
        import wandb

        # Silences what wandb says before it reads the settings of the run.
        wandb.setup(wandb.Settings(silent=True))
        self._out_dir.mkdir(parents=True, exist_ok=True)
        try:
            return wandb.init(
                mode=self._mode,
                dir=self._out_dir,
                project=self._settings.project,
                entity=self._settings.entity,
                name=self._name,
                group=self._group,
                job_type=self._job_type,
                tags=self._settings.tags,
                config=self._config,
                reinit="finish_previous",
                # Kept in out_dir until the run finishes well. Offline there is no server to say where the run had stopped.
                resume="auto" if self._mode == "online" else None,
                settings=_private_settings(self._settings),
            )
        except (wandb.errors.UsageError, ValueError) as error:
            raise ConfigError(f"tracking: {_brief(error)}") from error

    def __exit__(self, exception_type: type[BaseException] | None, *exception) -> None:
        import wandb

        folder = shlex.quote(str(self._run.settings.sync_dir))
        # Without the option `wandb sync` skips the folders of online runs.
        command = f"wandb sync {folder}" if self._mode == "offline" else f"wandb sync --include-online {folder}"
        try:
            self._run.finish(exit_code=0 if exception_type is None else 1)
        except TimeoutError:
            waited = self._settings.finish_timeout
            log.warning("W&B: the server did not take everything within %g s. It is kept; upload it with: %s", waited, command)
        except Exception as error:
            log.warning("W&B: the run was not closed (%s). What it logged is kept; upload it with: %s", _brief(error), command)
            # Its service is broken: the next run of this process starts another.
            with suppress(Exception):
                wandb.teardown()
        else:
            if self._mode == "offline":
                log.info("W&B: upload the run with: %s", command)

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Record metrics of one optimizer step, in any order of steps."""
        with self._survive("metrics"):
            self._run.log({"step": step, **metrics})

    def summary(self, metrics: dict[str, float]) -> None:
        """Record metrics of the whole run."""
        with self._survive("the summary"):
            self._run.summary.update(metrics)

    def table(self, name: str, rows: list[dict[str, str]]) -> None:
        """Record rows as one table. Online this waits for the server, some 20 s at the most."""
        import wandb

        columns = list(dict.fromkeys(column for row in rows for column in row))
        data = [[row.get(column) for column in columns] for row in rows]
        with self._survive(f"the table {name}"), _staging_below(self._out_dir / "wandb"):
            self._run.log({name: wandb.Table(columns=columns, data=data)})

    def artifact(self, path: Path) -> None:
        """Record where the run's artifact lies; nothing is uploaded."""
        with self._survive("the artifact's path"):
            self._run.summary["artifact"] = str(path)

    @contextmanager
    def _survive(self, what: str) -> Iterator[None]:
        """Go on without `what` whatever wandb raises: its service may be gone, its server may hang, and the run must not care."""
        try:
            yield
        except Exception as error:
            message = f"W&B: {what} not logged ({_brief(error)})"
            # Once: with the service gone every step fails alike.
            if message not in self._lost:
                self._lost.add(message)
                log.warning(message)


def _choose_mode(wanted: str | None) -> tuple[str, str | None]:
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
        key, missing = None, _brief(error)
    if key:
        return "online", None
    if wanted == "online":
        raise ConfigError(f"tracking.mode=online cannot log in ({missing}); or type tracking.mode=auto")
    return "offline", missing


def _private_settings(settings: Tracking) -> "wandb.Settings":
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
        # Sent with each run; a path of the user's machine if left alone.
        program="lexalign",
        init_timeout=settings.init_timeout,
        finish_timeout=settings.finish_timeout,
        finish_timeout_raises=True,
    )


def _brief(error: Exception) -> str:
    """The error in one line."""
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def _staging_below(folder: Path) -> Iterator[None]:
    """Let wandb keep its copy of a table here (an offline run needs it for `wandb sync`), not in the user's home."""
    if "WANDB_DATA_DIR" in os.environ:
        yield
        return
    os.environ["WANDB_DATA_DIR"] = str(folder)
    try:
        yield
    finally:
        del os.environ["WANDB_DATA_DIR"]
