"""What is wanted of the hub, and what came."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Kind = Literal["model", "dataset"]


@dataclass(frozen=True, kw_only=True)
class RepositoryRequest:
    """The files of one repository that are asked for."""

    repo: str
    kind: Kind
    revision: str | None
    """Branch, tag or commit; null = main."""
    include: list[str]
    exclude: list[str]
    output_dir: Path | None
    """null = the hub's own cache."""

    def __str__(self) -> str:
        return f"{self.kind} {self.repo}"

    @property
    def group(self) -> str:
        """The group of settings that names such a repository."""
        return "data" if self.kind == "dataset" else "model"

    @property
    def patterns(self) -> dict[str, list[str] | None]:
        """The patterns as the client takes them: it reads an empty list of allowed ones as none allowed."""
        return {"allow_patterns": self.include or None, "ignore_patterns": self.exclude or None}


@dataclass(frozen=True, kw_only=True)
class HubFile:
    """One file of a repository at a commit."""

    path: str
    size: int
    sha256: str | None
    """The hub's for a large file, and checked; that of the checked bytes for a small one (None before they are fetched)."""
    git_id: str | None = None
    """The hub's git hash of a small file."""
    present: bool = False
    """In a dry run: already here."""

    @property
    def large(self) -> bool:
        """Kept outside git by the hub (LFS, Xet), so that its sha256 is known beforehand."""
        return self.git_id is None


@dataclass(frozen=True, kw_only=True)
class FetchedRepository:
    """A repository as it was fetched, or in a dry run as it would be."""

    repo: str
    kind: Kind
    revision: str | None
    """What was asked for."""
    commit: str
    """What that was on the hub."""
    folder: Path
    """Where the files are."""
    files: list[HubFile]

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return sum(file.size for file in self.files)

    def details(self) -> dict[str, Any]:
        """The record for `result.json`."""
        return {
            "repo": self.repo,
            "revision": self.revision,
            "commit": self.commit,
            "folder": str(self.folder),
            "files": [{"path": file.path, "size": file.size, "sha256": file.sha256} for file in self.files],
            "bytes": self.bytes,
        }
