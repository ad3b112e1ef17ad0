"""Where the numbers of a run are shown."""

from dataclasses import dataclass
from typing import Annotated, Literal

from lexalign.config.schema.ranges import Positive


@dataclass(frozen=True, kw_only=True)
class Tracking:
    """Where the run's numbers are shown."""

    target: str
    """Dotted path of the tracker class."""
    project: str | None
    """Project of W&B, or of trackio."""
    entity: str | None
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
    folder: str | None
    """Where trackio keeps its database; null = where `trackio show` looks for it (TRACKIO_DIR, else below HF_HOME)."""
    init_timeout: Annotated[float, Positive] | None
    """Seconds to wait for the server at the start."""
    finish_timeout: Annotated[float, Positive] | None
    """Seconds to wait for the server at the end."""
