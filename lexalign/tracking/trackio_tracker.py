"""trackio: runs and groups in a database on this machine, shown on pages at 127.0.0.1. No account is needed.

An error of trackio never ends, blocks or changes a run.
"""

import contextlib
import io
import logging
import os
import shlex
import sys
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from lexalign.config.schema import Tracking
from lexalign.config.secrets import redact, redact_tree
from lexalign.errors import ConfigError
from lexalign.tracking import display, environment
from lexalign.tracking.no_tracker import NoTracker
from lexalign.tracking.sweep_summary import JOB_TYPE

log = logging.getLogger(__name__)

UNFINISHED_ID = "trackio-run"
"""File in a run's folder with the id of its unfinished trackio run."""


class TrackioTracker(NoTracker):
    """`tracking=trackio`: one trackio run for one run, in trackio's database on this machine.

    Nothing is sent anywhere, whatever the environment says, and no account name is looked up. A run that was interrupted continues as the
    same trackio run when it is resumed in its folder.
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
        self._out_dir = out_dir
        tags = dict.fromkeys([*(settings.tags or []), *display.make_tags(typed)])
        flat_config = {**display.flatten(display.make_filterable(config)), "job_type": job_type, "tags": ", ".join(tags)}
        # trackio reserves names that begin with an underscore.
        self._config = redact_tree({key.lstrip("_"): value for key, value in flat_config.items()})
        self._name, self._group = redact(settings.name or run_name), settings.group or group
        self._is_sweep = job_type == JOB_TYPE
        self._run: Any = None
        self._step = 0
        self._lost: set[str] = set()

    def __enter__(self) -> Self:
        super().__enter__()
        self._hidden = environment.hide_variables(environment.REMOTE)
        if names := self._hidden.__enter__():
            log.warning("trackio: %s ignored; runs stay on this machine", " and ".join(names))
        try:
            self._open_and_say_how_to_show()
        except BaseException:  # `__exit__` is not called
            self._hidden.__exit__(None, None, None)
            super().__exit__()
            raise
        return self

    def _open_and_say_how_to_show(self) -> None:
        with self._survive("the run"):
            self._run = self._open()
            folder = f"TRACKIO_DIR={shlex.quote(str(self._folder))} " if self._folder else ""
            log.info("trackio: show the run with: %strackio show --project %s", folder, shlex.quote(str(self._settings.project)))

    @property
    def _folder(self) -> Path | None:
        return Path(self._settings.folder).expanduser().absolute() if self._settings.folder else None

    def _open(self) -> Any:
        if self._folder and "trackio" not in sys.modules:
            os.environ["TRACKIO_DIR"] = str(self._folder)  # read once, when trackio is imported
        from trackio import utils
        from trackio.run import Run
        from trackio.sqlite_storage import SQLiteStorage

        if self._folder and self._folder != Path(utils.TRACKIO_DIR).absolute():
            log.warning("trackio: an earlier run of this process chose %s, which it keeps; not %s", utils.TRACKIO_DIR, self._folder)

        class LocalRun(Run):
            """trackio's run without `trackio.init`, which would send it to a server or a Space that the environment names."""

            def _get_username(self) -> None:
                """Return None. trackio would ask the hub for the owner of the token."""

            def _warn_once(_, key: str, message: str) -> None:
                self._warn(message)

        assert self._settings.project is not None
        try:
            SQLiteStorage.validate_project_name(self._settings.project)
        except ValueError as error:
            raise ConfigError(f"tracking.project: {error}") from error
        return LocalRun(
            url=None,
            project=self._settings.project,
            client=None,
            name=self._name,
            run_id=self._get_run_id(),
            group=self._group,
            config=self._config,
            existing_runs=[],
        )

    def _get_run_id(self) -> str:
        """Return the id of the run that was interrupted in this folder, or of its sweep's summary; else a new id, stored until the end."""
        note = self._out_dir / UNFINISHED_ID
        if self._is_sweep:
            return uuid.uuid5(uuid.NAMESPACE_URL, self._out_dir.absolute().as_uri()).hex
        with contextlib.suppress(OSError):
            return note.read_text(encoding="ascii").strip()
        identity = uuid.uuid4().hex
        self._out_dir.mkdir(parents=True, exist_ok=True)
        note.write_text(identity, encoding="ascii")
        return identity

    def __exit__(self, exception_type: type[BaseException] | None = None, *exception) -> None:
        with self._survive("the end of the run"):
            if self._run is not None:
                self._run.log({"finished": float(exception_type is None)}, step=self._step)
                with contextlib.redirect_stdout(io.StringIO()):  # it prints messages about an upload that does not happen
                    self._run.finish()  # waits at most half a minute for its database
        if exception_type is None:
            (self._out_dir / UNFINISHED_ID).unlink(missing_ok=True)
        self._hidden.__exit__(None, None, None)
        super().__exit__()

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Record metrics of one optimizer step."""
        self._step = max(self._step, step)
        self._log(metrics, step, "metrics")

    def summary(self, metrics: dict[str, float]) -> None:
        """Record metrics of the whole run: those measured before training at step 0, the others at the last step."""
        early = {name: value for name, value in metrics.items() if name.startswith("before/")}
        late = {name: value for name, value in metrics.items() if name not in early}
        for values, step in ((early, 0), (late, self._step)):
            if values:
                self._log(values, step, "the summary")

    def table(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Record rows as one table."""
        with self._survive(f"the table {name}"):
            from trackio.table import Table

            columns = display.list_columns(rows)
            data = redact_tree([[row.get(column) for column in columns] for row in rows])
            self._log({name: Table(columns=columns, data=data)}, self._step, f"the table {name}")

    def artifact(self, path: Path) -> None:
        """Record the artifact by reference; nothing is copied."""
        link = display.ArtifactLink.read(path) if self._settings.link_artifacts and self._run is not None else None
        if link is not None:
            with self._survive("the link to the artifact"):
                from trackio.artifact import Artifact

                reference = Artifact(link.name, type="model", metadata=link.facts)
                reference.add_reference(link.manifest.as_uri())
                self._run.log_artifact(reference, aliases=[link.alias])

    def starts_from(self, path: Path) -> None:
        """Link the run to the artifact that it starts from, if trackio tracked the run that made it."""
        link = display.ArtifactLink.read(path) if self._settings.link_artifacts and self._run is not None else None
        if link is not None:
            with self._survive("the link to what the run starts from"):
                self._run.use_artifact(f"{link.name}:{link.alias}")

    def _log(self, values: dict[str, Any], step: int, what: str) -> None:
        if self._run is not None:
            with self._survive(what):
                self._run.log(values, step=step)

    @contextlib.contextmanager
    def _survive(self, what: str) -> Iterator[None]:
        """Continue without `what` if trackio raises an error."""
        try:
            yield
        except ConfigError:
            raise
        except Exception as error:
            self._warn(f"{what} not logged ({' '.join(str(error).split()) or type(error).__name__})")

    def _warn(self, message: str) -> None:
        """Log a warning, once."""
        if message not in self._lost:
            self._lost.add(message)
            log.warning("trackio: %s", message)
