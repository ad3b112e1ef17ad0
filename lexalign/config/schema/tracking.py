"""Where the numbers of a run are shown."""

from dataclasses import dataclass
from typing import Annotated, Literal

from lexalign.config.parsing import TypedOnly
from lexalign.config.schema.ranges import Positive


@dataclass(frozen=True, kw_only=True)
class Tracking:
    """Where the run's numbers are shown."""

    target: str
    """Dotted path of the tracker class."""
    project: Annotated[str | None, TypedOnly("it names a place that settings and numbers are sent to")]
    """Project of W&B, or of trackio."""
    entity: Annotated[str | None, TypedOnly("it names an account that settings and numbers are sent to")]
    """W&B user or team; null = the account's own."""
    mode: Literal["auto", "online", "offline"] | None
    """auto = online where a key is configured, offline otherwise."""
    group: str | None
    """Runs shown together; null = the sweep, or the parents' group for a parent."""
    name: str | None
    """null = the overrides of the run."""
    tags: list[str] | None
    """Tags beside those made of the overrides."""
    link_artifacts: bool | None
    """Link a run to the artifacts it starts from and leaves, so that their lineage is drawn. By reference: the address of the manifest on
    this machine and the folder's path are sent, no other file."""
    folder: Annotated[str | None, TypedOnly("it names a folder that is written to")]
    """Where trackio keeps its database; null = where `trackio show` looks for it (TRACKIO_DIR, else below HF_HOME)."""
    init_timeout: Annotated[float, Positive] | None
    """Seconds to wait for the server at the start."""
    finish_timeout: Annotated[float, Positive] | None
    """Seconds to wait for the server at the end."""
