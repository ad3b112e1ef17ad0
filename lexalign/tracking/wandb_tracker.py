"""The tracker for Weights & Biases: one W&B run for each run.

After the start, an error of W&B never ends, blocks or changes a run. It is logged in one line.
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
from lexalign.config.secrets import redact, redact_tree
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
"""Maximum length of the names of runs and groups: W&B's servers refuse longer ones, and a name made of overrides can be long."""


class WandbTracker:
    """`tracking=wandb`: one W&B run for one run, below `out_dir/wandb`.

    Online where a key is configured, otherwise offline with the command that uploads it. `WANDB_MODE` (offline, disabled) wins
    over `tracking.mode`. A run that was interrupted online continues as the same W&B run when it is resumed in its folder. Under
    `wandb agent`, a single run, or the summary of a sweep, is the agent's run.
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
        self._config = redact_tree(display.make_filterable(config))
        tags = [*environment.read_wandb_tags(), *(settings.tags or []), *display.make_tags(typed)]
        self._tags = redact_tree(list(dict.fromkeys(tags)))
        self._beside_agent = group is not None and job_type != JOB_TYPE
        self._is_sweep = job_type == JOB_TYPE
        self._variables = environment.read_wandb_variables(typed, is_one_of_many=group is not None, is_sweep=self._is_sweep)
        self._name = redact(self._variables.get("name") or settings.name or run_name)[:MAX_NAME]
        self._group = redact(self._variables.get("group") or settings.group or group or "")[:MAX_NAME] or None
        self._job_type = self._variables.get("job_type") or job_type
        self._lost: set[str] = set()

    def __enter__(self) -> Self:
        try:
            # The agent's run is for this process. A parent that is trained first, and the jobs of a sweep, are separate runs.
            with environment.hide_variables(environment.AGENT if self._beside_agent else ()):
                self._start()
        except BaseException:
            end_session()
            raise
        return self

    def _start(self) -> None:
        # wandb reads it when it starts its service. Its crash reports could hold parts of our run.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        self._mode, reason = choose_mode(self._settings.mode)
        if reason:
            log.info("W&B: %s (%s)", self._mode, reason)
        names = [
            *(environment.NAMED[name] for name in self._variables),
            *(name for name in ("WANDB_TAGS", "WANDB_DIR") if os.environ.get(name)),
        ]
        if names:
            log.info("W&B: %s of the environment %s used", " and ".join(names), "is" if len(names) == 1 else "are")
        try:
            self._run = self._open()
        except (wandb.errors.CommError, TimeoutError) as error:
            self._mode = "offline"
            log.warning("W&B: offline (the server did not open the run: %s)", shorten_error(error))
            # End the attempt, which would otherwise continue in wandb's service.
            end_session()
            self._run = self._open()
        if self._mode == "online":
            log.info("W&B: %s", self._run.url)
        # Use our own step axis: W&B's drops every step below its last one, and a resumed run repeats some steps.
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")

    def _open(self) -> "wandb.Run":
        import wandb

        # Silence wandb before it reads the settings of the run.
        wandb.setup(wandb.Settings(silent=True))
        folder = Path(os.environ.get("WANDB_DIR") or self._out_dir)
        folder.mkdir(parents=True, exist_ok=True)  # W&B would write to a temporary folder instead of a missing one
        try:
            return wandb.init(
                mode=self._mode,
                id=self._make_sweep_id(),
                dir=folder,
                project=self._variables.get("project") or self._settings.project,
                entity=self._variables.get("entity") or self._settings.entity,
                name=self._name,
                group=self._group,
                job_type=self._job_type,
                tags=self._tags,
                config=self._config,
                reinit="finish_previous",
                # auto: the id is stored in out_dir until the run finishes. Offline there is no server that knows the last step.
                resume=None if self._mode != "online" else "allow" if self._is_sweep else "auto",
                settings=make_private_settings(self._settings),
            )
        except (wandb.errors.UsageError, ValueError) as error:
            raise ConfigError(f"tracking: {shorten_error(error)}") from error

    def _make_sweep_id(self) -> str | None:
        """Return the id of a sweep's summary, the same each time the sweep continues in its folder; None if wandb chooses the id."""
        if not self._is_sweep or "WANDB_RUN_ID" in os.environ:
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
            log.warning("W&B: %s. Its log is on the disk; upload it with: %s", why, command)
        else:
            if self._mode == "offline":
                log.info("W&B: upload the run with: %s", command)
        finally:
            end_session()

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Record metrics of one optimizer step, in any order of steps."""
        with self._survive("metrics"):
            self._run.log({"step": step, **metrics})

    def log_earlier(self, rows: Sequence[tuple[int, dict[str, float]]]) -> None:
        """Record the metrics of the steps before a resume. Only an offline run is a new one, which lacks them; an online run has them."""
        if self._mode != "offline" or not rows:
            return
        for step, metrics in rows:
            self.log(step, metrics)
        log.info(
            "W&B: an offline run cannot be continued, so this is a new one. The metrics up to step %d are logged into it again; upload "
            "this one, and not the older ones of this folder",
            rows[-1][0],
        )

    def summary(self, metrics: dict[str, float]) -> None:
        """Record metrics of the whole run."""
        with self._survive("the summary"):
            self._run.summary.update(metrics)

    def table(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Record rows as one table. Online this waits for the server, some 20 s at the most."""
        import wandb

        columns = display.list_columns(rows)
        data = redact_tree([[row.get(column) for column in columns] for row in rows])
        with self._survive(f"the table {name}"), stage_tables_below(self._out_dir / "wandb"):
            self._run.log({name: wandb.Table(columns=columns, data=data)})

    def artifact(self, path: Path) -> None:
        """Record the path of the run's artifact; nothing is uploaded."""
        with self._survive("the artifact's path"):
            self._run.summary["artifact"] = redact(str(path))
        self._link(path, is_input=False)

    def starts_from(self, path: Path) -> None:
        """Record the artifact that the run starts from; nothing is uploaded."""
        with self._survive("the path of what the run starts from"):
            self._run.summary["starts_from"] = redact(str(path))
        self._link(path, is_input=True)

    def _link(self, path: Path, *, is_input: bool) -> None:
        """Record an artifact in W&B's lineage: a reference to the manifest, which holds the digest of every file, and the folder's path.

        Both runs send the same reference under the same name, so the server treats them as one version, in any order.
        """
        link = display.ArtifactLink.read(path) if self._settings.link_artifacts else None
        if link is None:
            return
        import wandb

        with self._survive("the link to an artifact"), stage_tables_below(self._out_dir / "wandb"):
            reference = wandb.Artifact(link.name, type="model", metadata=link.facts)
            reference.add_reference(link.manifest.as_uri())
            if is_input:
                # The same as run.use_artifact, which refuses offline runs and waits online without a limit.
                self._run._log_artifact(reference, aliases=[link.alias], is_user_created=True, use_after_commit=True)
            else:
                self._run.log_artifact(reference, aliases=[link.alias])

    @contextmanager
    def _survive(self, what: str) -> Iterator[None]:
        """Continue without `what` if wandb raises an error: its service may be gone, or its server may hang."""
        try:
            yield
        except Exception as error:
            message = f"W&B: {what} not logged ({shorten_error(error)})"
            # Log it once: without the service every step fails in the same way.
            if message not in self._lost:
                self._lost.add(message)
                log.warning(message)
