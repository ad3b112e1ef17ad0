"""One W&B run for one run of ours.

A run is worth more than its tracker: once it has begun, nothing that W&B does or fails to do ends, blocks or changes it, and
what W&B fails to do is said in one line.
"""

import logging
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from lexalign.errors import ConfigError
from lexalign.schema import Tracking
from lexalign.tracking.session import (
    GRACE,
    brief,
    choose_mode,
    end_session,
    private_settings,
    service_killed_after,
    staging_below,
)

if TYPE_CHECKING:
    import wandb

log = logging.getLogger(__name__)

MAX_NAME = 128
"""W&B's servers refuse longer names of runs and groups; a name made of overrides gets there."""


class WandbTracker:
    """`tracking=wandb`: one W&B run for one run, below `out_dir/wandb`.

    Online where a key is configured, otherwise offline with the command that uploads it. `WANDB_MODE` (offline, disabled) wins
    over `tracking.mode`. A run that was interrupted online goes on as the same W&B run when it is resumed in its folder.
    """

    def __init__(self, settings: Tracking, out_dir: Path, config: dict[str, Any], run_name: str, group: str | None, job_type: str):
        self._settings = settings
        self._out_dir = out_dir.absolute()
        self._config = config
        self._name = (settings.name or run_name)[:MAX_NAME]
        self._group = (settings.group or group or "")[:MAX_NAME] or None
        self._job_type = job_type
        self._lost: set[str] = set()

    def __enter__(self) -> Self:
        try:
            self._begin()
        except BaseException:
            end_session()
            raise
        return self

    def _begin(self) -> None:
        # wandb reads it when it starts its service: its own crash reports would carry pieces of our run elsewhere.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        self._mode, reason = choose_mode(self._settings.mode)
        if reason:
            log.info("W&B: %s (%s)", self._mode, reason)
        try:
            self._run = self._open()
        except (wandb.errors.CommError, TimeoutError) as error:
            self._mode = "offline"
            log.warning("W&B: offline (the server did not open the run: %s)", brief(error))
            # Ends the attempt, which would otherwise live on in wandb's service.
            end_session()
            self._run = self._open()
        if self._mode == "online":
            log.info("W&B: %s", self._run.url)
        # A step axis of our own: W&B's drops every step below its last one, and a resumed run repeats some.
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")

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
                settings=private_settings(self._settings),
            )
        except (wandb.errors.UsageError, ValueError) as error:
            raise ConfigError(f"tracking: {brief(error)}") from error

    def __exit__(self, exception_type: type[BaseException] | None, *exception) -> None:
        folder = shlex.quote(str(self._run.settings.sync_dir))
        # Without the option `wandb sync` skips the folders of online runs.
        command = f"wandb sync {folder}" if self._mode == "offline" else f"wandb sync --include-online {folder}"
        waited = self._settings.finish_timeout
        try:
            with service_killed_after(waited + GRACE) as killed:
                self._run.finish(exit_code=0 if exception_type is None else 1)
        except Exception as error:
            why = f"the server did not take everything within {waited:g} s"
            if not killed.is_set() and not isinstance(error, TimeoutError):
                why = f"the run was not closed: {brief(error)}"
            log.warning("W&B: %s. What it logged is kept; upload it with: %s", why, command)
        else:
            if self._mode == "offline":
                log.info("W&B: upload the run with: %s", command)
        finally:
            end_session()

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
        with self._survive(f"the table {name}"), staging_below(self._out_dir / "wandb"):
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
            message = f"W&B: {what} not logged ({brief(error)})"
            # Once: with the service gone every step fails alike.
            if message not in self._lost:
                self._lost.add(message)
                log.warning(message)
