"""A request to the hub, and the repository that was fetched."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Kind = Literal["model", "dataset"]


@dataclass(frozen=True, kw_only=True)
class RepositoryRequest:
    """Which files of which repository are requested."""

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
        """The patterns in the client's form. It reads an empty list of allowed patterns as nothing allowed."""
        return {"allow_patterns": self.include or None, "ignore_patterns": self.exclude or None}


@dataclass(frozen=True, kw_only=True)
class HubFile:
    """One file of a repository at a commit."""

    path: str
    size: int
    sha256: str | None
    """For a large file the hub's, checked; for a small file that of the fetched bytes (None before)."""
    git_id: str | None = None
    """The hub's git hash of a small file."""
    is_present: bool = False
    """In a dry run: whether the file is here already."""

    @property
    def is_large(self) -> bool:
        """Whether the hub stores it outside git (LFS, Xet), so that its sha256 is known before the download."""
        return self.git_id is None


@dataclass(frozen=True, kw_only=True)
class FetchedRepository:
    """A repository that was fetched, or in a dry run would be."""

    repo: str
    kind: Kind
    revision: str | None
    """The requested branch, tag or commit."""
    commit: str
    """The commit that it was on the hub."""
    folder: Path
    """The folder with the files."""
    files: list[HubFile]

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return sum(file.size for file in self.files)

    def details(self) -> dict[str, Any]:
        """Return the record for `result.json`."""
        return {
            "repo": self.repo,
            "revision": self.revision,
            "commit": self.commit,
            "folder": str(self.folder),
            "files": [{"path": file.path, "size": file.size, "sha256": file.sha256} for file in self.files],
            "bytes": self.bytes,
        }
