"""Where the files of a repository are on this disk. The layout is the client's own, so that the client finds them."""

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from lexalign.errors import HubError
from lexalign.hub.repository import HubFile, RepositoryRequest


@dataclass(frozen=True, kw_only=True)
class CachedFile:
    """The paths of one file."""

    path: Path
    """The path that readers open; in the cache a link to `target`."""
    target: Path
    """The file with the bytes."""
    partial: Path
    """The file with the bytes until they are complete and checked."""
    lock: Path
    """The lock; in the cache it is the client's own. Two runs do not fetch the same file."""
    notes: Path | None
    """The client's metadata of a file in a folder. It is removed when the file changes."""
    copy: Path | None
    """The same file in the hub's cache, if the file goes to a folder."""

    @property
    def existing(self) -> Path | None:
        """The existing file, checked or not, or None."""
        return next((path for path in (self.path, self.target) if path.is_file()), None)

    def discard(self) -> None:
        """Remove a damaged file and the client's metadata of it, with which the client would not fetch it again."""
        for path in (self.path, self.target, self.notes):
            if path is not None:
                path.unlink(missing_ok=True)

    def holds(self, size: int) -> bool:
        """Return whether a file of this size exists."""
        return self.existing is not None and self.existing.stat().st_size == size


def hash_file(path: Path) -> str:
    """Return the sha256 of a file in hex."""
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def get_folder(request: RepositoryRequest, *, commit: str) -> Path:
    """Return the folder with the files of a commit."""
    return request.output_dir or get_snapshot_folder(request, commit)


def get_cached_file(file: HubFile, request: RepositoryRequest, *, commit: str) -> CachedFile:
    """Return the paths of one file of a commit."""
    snapshot = get_snapshot_folder(request, commit)
    storage = snapshot.parent.parent
    name = file.sha256 or file.git_id
    blob = storage / "blobs" / name
    if request.output_dir is None:
        return CachedFile(
            path=snapshot / file.path,
            target=blob,
            partial=blob.with_name(f"{name}.lexalign.incomplete"),
            lock=storage.parent / ".locks" / storage.name / f"{name}.lock",
            notes=None,
            copy=None,
        )
    notes = request.output_dir / ".cache" / "huggingface" / "download"
    return CachedFile(
        path=request.output_dir / file.path,
        target=request.output_dir / file.path,
        partial=notes / f"{name}.lexalign.incomplete",
        lock=notes / f"{name}.lexalign.lock",
        notes=notes / f"{file.path}.metadata",
        copy=blob,
    )


def get_snapshot_folder(request: RepositoryRequest, commit: str) -> Path:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    cache = Path(constants.HF_HUB_CACHE).expanduser().resolve()
    return cache / repo_folder_name(repo_id=request.repo, repo_type=request.kind) / "snapshots" / commit


def refuse_links(folder: Path, paths: list[str]) -> None:
    """Raise `HubError` if a link inside `folder` would lead a file out of it."""
    root = folder.resolve()
    for path in [".cache/huggingface/download", *paths]:
        real = (folder / path).resolve()
        if not real.is_relative_to(root):
            raise HubError(
                f"download.output_dir={folder}: {path} is a link to {real}, outside the folder; nothing was fetched. Remove the "
                "link, or type download.output_dir=<another folder>"
            )


def refuse_full_disk(files: list[HubFile], places: dict[str, CachedFile], *, what: str) -> None:
    """Raise `HubError` if the missing files do not fit on the disk."""
    missing = [file for file in files if not places[file.path].holds(file.size)]
    if not missing:
        return
    partials = (places[file.path].partial for file in missing)
    needed = sum(file.size for file in missing) - sum(partial.stat().st_size for partial in partials if partial.is_file())
    folder = places[missing[0].path].target.parent
    free = shutil.disk_usage(next(parent for parent in (folder, *folder.parents) if parent.exists())).free
    if needed > free:
        raise HubError(
            f"{what} needs {needed / 1e9:.2f} GB more, and {folder} has {free / 1e9:.2f} GB free: set HF_HOME to a folder on "
            "a larger disk, type download.output_dir=<one there>, or fetch less with download.include"
        )
