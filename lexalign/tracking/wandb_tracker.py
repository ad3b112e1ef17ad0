"""One W&B run for one run of ours.

A run is worth more than its tracker: once it has begun, nothing that W&B does or fails to do ends, blocks or changes it, and
what W&B fails to do is said in one line.
"""

import hashlib
import logging
import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from lexalign.config.schema import Tracking
from lexalign.errors import ConfigError
from lexalign.tracking import display, environment
from lexalign.tracking.sweep_summary import JOB_TYPE
from lexalign.tracking.wandb_session import (
    GRACE,
    choose_mode,
    end_session,
    kill_service_after,
    make_private_settings,
    shorten_error,
    stage_tables_below,
)

if TYPE_CHECKING:
    import wandb

log = logging.getLogger(__name__)

MAX_NAME = 128
"""W&B's servers refuse longer names of runs and groups; a name made of overrides gets there."""


class WandbTracker:
    """`tracking=wandb`: one W&B run for one run, below `out_dir/wandb`.

    Online where a key is configured, otherwise offline with the command that uploads it. `WANDB_MODE` (offline, disabled) wins
    over `tracking.mode`. A run that was interrupted online goes on as the same W&B run when it is resumed in its folder. Behind
    `wandb agent`, a run that stands alone, or the summary of a sweep, is the agent's run.
    """

    def __init__(
        self,
        settings: Tracking,
        out_dir: Path,
        config: dict[str, Any],
        run_name: str,
        group: str | None,
        job_type: str,
        typed: Sequence[str] = (),
    ):
        self._settings = settings
        self._out_dir = out_dir.absolute()
        self._config = display.make_filterable(config)
        self._tags = list(dict.fromkeys([*(settings.tags or []), *display.make_tags(typed)]))
        self._beside_agent = group is not None and job_type != JOB_TYPE
        self._name = (settings.name or run_name)[:MAX_NAME]
        self._group = (settings.group or group or "")[:MAX_NAME] or None
        self._job_type = job_type
        self._lost: set[str] = set()

    def __enter__(self) -> Self:
        try:
            # The agent's run is this process's own: a parent that is trained first, and a sweep's jobs, are runs beside it.
            with environment.hide_variables(environment.AGENT if self._beside_agent else ()):
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
            log.warning("W&B: offline (the server did not open the run: %s)", shorten_error(error))
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
                id=self._lasting_id(),
                dir=self._out_dir,
                project=self._settings.project,
                entity=self._settings.entity,
                name=self._name,
                group=self._group,
                job_type=self._job_type,
                tags=self._tags,
                config=self._config,
                reinit="finish_previous",
                # auto: kept in out_dir until the run finishes well. Offline there is no server to say where the run had stopped.
                resume=None if self._mode != "online" else "allow" if self._job_type == JOB_TYPE else "auto",
                settings=make_private_settings(self._settings),
            )
        except (wandb.errors.UsageError, ValueError) as error:
            raise ConfigError(f"tracking: {shorten_error(error)}") from error

    def _lasting_id(self) -> str | None:
        """The id of a sweep's summary, one for its folder however often the sweep is gone on with; None where wandb or its agent knows."""
        if self._job_type != JOB_TYPE or "WANDB_RUN_ID" in os.environ:
            return None
        return hashlib.sha256(f"{self._group}\0{self._out_dir}".encode()).hexdigest()[:16]

    def __exit__(self, exception_type: type[BaseException] | None, *exception) -> None:
        folder = shlex.quote(str(self._run.settings.sync_dir))
        # Without the option `wandb sync` skips the folders of online runs.
        command = f"wandb sync {folder}" if self._mode == "offline" else f"wandb sync --include-online {folder}"
        waited = self._settings.finish_timeout
        try:
            with kill_service_after(waited + GRACE) as killed:
                self._run.finish(exit_code=0 if exception_type is None else 1)
        except Exception as error:
            why = f"the server did not take everything within {waited:g} s"
            if not killed.is_set() and not isinstance(error, TimeoutError):
                why = f"the run was not closed: {shorten_error(error)}"
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

    def table(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Record rows as one table. Online this waits for the server, some 20 s at the most."""
        import wandb

        columns = display.list_columns(rows)
        data = [[row.get(column) for column in columns] for row in rows]
        with self._survive(f"the table {name}"), stage_tables_below(self._out_dir / "wandb"):
            self._run.log({name: wandb.Table(columns=columns, data=data)})

    def artifact(self, path: Path) -> None:
        """Record where the run's artifact lies; nothing is uploaded."""
        with self._survive("the artifact's path"):
            self._run.summary["artifact"] = str(path)
        self._link(path, used=False)

    def starts_from(self, path: Path) -> None:
        """Record the artifact that the run starts from; nothing is uploaded."""
        with self._survive("the path of what the run starts from"):
            self._run.summary["starts_from"] = str(path)
        self._link(path, used=True)

    def _link(self, path: Path, *, used: bool) -> None:
        """A line in W&B's lineage. W&B gets a reference to the manifest, which holds the digest of every file, and the folder's path.

        Both ends send the same reference under the same name, so the server takes them for one version, whichever it hears of first.
        """
        link = display.ArtifactLink.of(path) if self._settings.link_artifacts else None
        if link is None:
            return
        import wandb

        with self._survive("the link to an artifact"), stage_tables_below(self._out_dir / "wandb"):
            reference = wandb.Artifact(link.name, type="model", metadata=link.facts)
            reference.add_reference(link.manifest.as_uri())
            if used:
                # As run.use_artifact does, which refuses to offline, and online waits for the server without a limit.
                self._run._log_artifact(reference, aliases=[link.alias], is_user_created=True, use_after_commit=True)
            else:
                self._run.log_artifact(reference, aliases=[link.alias])

    @contextmanager
    def _survive(self, what: str) -> Iterator[None]:
        """Go on without `what` whatever wandb raises: its service may be gone, its server may hang, and the run must not care."""
        try:
            yield
        except Exception as error:
            message = f"W&B: {what} not logged ({shorten_error(error)})"
            # Once: with the service gone every step fails alike.
            if message not in self._lost:
                self._lost.add(message)
                log.warning(message)
