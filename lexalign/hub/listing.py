"""What a repository holds at a revision, resolved to a commit, and which of its names are refused."""

import logging
import re
import unicodedata

from lexalign.errors import HubError
from lexalign.hub import messages
from lexalign.hub.repository import HubFile, RepositoryRequest

log = logging.getLogger(__name__)


def resolve_revision(wanted: RepositoryRequest, *, remember: bool):
    """The commit that the wanted revision is now, as the client's `ResolvedRevision`.

    With `remember` the client's cache notes it for offline runs. Raises the client's errors.
    """
    from huggingface_hub import HfApi, ResolvedRevision

    repository = {"repo_id": wanted.repo, "repo_type": wanted.kind}
    before = _remembered(wanted)
    if remember or _is_commit(wanted.revision):
        found = HfApi().resolve_revision(revision=wanted.revision, **repository)
    else:
        sha = HfApi().repo_info(revision=wanted.revision, **repository).sha
        found = ResolvedRevision(resolved=sha, initial=wanted.revision, **repository)
    if not _is_commit(found.resolved):  # it names a folder of the cache
        raise HubError(f"{wanted}: {messages.get_endpoint()} gives {ascii(found.resolved)} as a commit: check HF_ENDPOINT")
    if before not in (None, found.resolved):
        log.warning("%s: %s has moved from %s to %s since the last download", wanted, found, before, found.resolved)
    return found


def _is_commit(revision: str | None) -> bool:
    return re.fullmatch("[0-9a-f]{40}", revision or "") is not None


def _remembered(wanted: RepositoryRequest) -> str | None:
    """The commit that the cache has for a branch or tag, or None."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RevisionResolutionError

    try:
        found = HfApi().resolve_revision(wanted.repo, repo_type=wanted.kind, revision=wanted.revision, local_files_only=True)
    except RevisionResolutionError:
        return None
    return found.resolved


def list_files(wanted: RepositoryRequest, *, commit: str) -> list[HubFile]:
    """The files of a commit that the patterns leave.

    Raises `HubError` when none is left, or when a name would lead out of the folder that the files are written to; the client's
    errors otherwise.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    tree = HfApi().list_repo_tree(wanted.repo, repo_type=wanted.kind, revision=commit, recursive=True)
    files = {entry.path: _hub_file(entry) for entry in tree if isinstance(entry, RepoFile)}
    chosen = select_paths(list(files), wanted)
    if not chosen:
        some = ", ".join(ascii(path)[1:-1] for path in sorted(files)[:8])
        patterns = f"download.include={wanted.include} download.exclude={wanted.exclude}"
        raise HubError(f"{wanted} has no file for {patterns}; it has {len(files)}: {some or '-'}")
    refuse_hostile(chosen, what=str(wanted))
    for path in chosen:
        name = files[path].git_id if files[path].sha256 is None else files[path].sha256  # names a file of the cache
        if not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", name):
            raise HubError(f"{wanted}: the hub gives no hash for {ascii(path)}, so it cannot be checked; leave it out: download.exclude")
    return [files[path] for path in sorted(chosen)]


def _hub_file(entry) -> HubFile:
    if entry.lfs is not None:
        return HubFile(path=entry.path, size=entry.lfs.size, sha256=entry.lfs.sha256)
    return HubFile(path=entry.path, size=entry.size, sha256=None, git_id=entry.blob_id or "")


def select_paths(paths: list[str], wanted: RepositoryRequest) -> list[str]:
    """The paths that the patterns leave, by the client's own rules."""
    from huggingface_hub.utils import filter_repo_objects

    return list(filter_repo_objects(paths, **wanted.patterns))


def refuse_hostile(paths: list[str], *, what: str) -> None:
    """Raises `HubError` for a name that is no plain relative path on every system, or that stands where a folder must.

    The client refuses some of these too, but only when it comes to that file, with others already written.
    """
    names = set(paths)
    for path in paths:
        parts = path.split("/")
        if (
            any(part in ("", ".", "..") or re.match("[A-Za-z]:", part) or len(part) > 255 for part in parts)
            or "\\" in path
            or any(unicodedata.category(letter) in ("Cc", "Cs") for letter in path)
            or [part.lower() for part in parts[:2]] == [".cache", "huggingface"]  # the client's own notes in a folder
        ):
            problem = "is not a plain path inside the repository"
        elif any("/".join(parts[:depth]) in names for depth in range(1, len(parts))):
            problem = "lies inside a name that is a file itself"
        else:
            continue
        raise HubError(
            f"{what} has a file named {ascii(path)}, which {problem}: nothing was fetched. Leave it out with "
            "download.exclude, or take another repository"
        )
