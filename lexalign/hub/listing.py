"""The commit of a revision, the files of a commit, and which file names are refused."""

import logging
import re
import unicodedata

from lexalign.errors import HubError
from lexalign.hub import messages
from lexalign.hub.repository import HubFile, RepositoryRequest

log = logging.getLogger(__name__)


def resolve_revision(request: RepositoryRequest, *, remember: bool):
    """Return the current commit of the requested revision, as the client's `ResolvedRevision`.

    With `remember` the client's cache stores it for offline runs. Raises the client's errors.
    """
    from huggingface_hub import HfApi, ResolvedRevision

    repository = {"repo_id": request.repo, "repo_type": request.kind}
    before = read_cached_commit(request)
    if remember or is_commit(request.revision):
        commit = HfApi().resolve_revision(revision=request.revision, **repository)
    else:
        sha = HfApi().repo_info(revision=request.revision, **repository).sha
        commit = ResolvedRevision(resolved=sha, initial=request.revision, **repository)
    if not is_commit(commit.resolved):  # it names a folder of the cache
        raise HubError(f"{request}: {messages.get_endpoint()} gives {ascii(commit.resolved)} as a commit: check HF_ENDPOINT")
    if before not in (None, commit.resolved):
        log.warning("%s: %s has moved from %s to %s since the last download", request, commit, before, commit.resolved)
    return commit


def is_commit(revision: str | None) -> bool:
    return re.fullmatch("[0-9a-f]{40}", revision or "") is not None


def read_cached_commit(request: RepositoryRequest) -> str | None:
    """Return the commit that the cache holds for a branch or tag, or None."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RevisionResolutionError

    try:
        commit = HfApi().resolve_revision(request.repo, repo_type=request.kind, revision=request.revision, local_files_only=True)
    except RevisionResolutionError:
        return None
    return commit.resolved


def list_files(request: RepositoryRequest, *, commit: str) -> list[HubFile]:
    """List the files of a commit that match the patterns.

    Raises `HubError` if none matches, or if a name would lead out of the folder that the files are written to; otherwise the client's
    errors.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    tree = HfApi().list_repo_tree(request.repo, repo_type=request.kind, revision=commit, recursive=True)
    files = {entry.path: make_hub_file(entry) for entry in tree if isinstance(entry, RepoFile)}
    chosen = select_paths(list(files), request)
    if not chosen:
        some = ", ".join(ascii(path)[1:-1] for path in sorted(files)[:8])
        patterns = f"download.include={request.include} download.exclude={request.exclude}"
        raise HubError(f"{request} has no file for {patterns}; it has {len(files)}: {some or '-'}")
    refuse_hostile(chosen, what=str(request))
    for path in chosen:
        name = files[path].git_id if files[path].sha256 is None else files[path].sha256  # names a file of the cache
        if not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", name):
            raise HubError(f"{request}: the hub gives no hash for {ascii(path)}, so it cannot be checked; leave it out: download.exclude")
    return [files[path] for path in sorted(chosen)]


def make_hub_file(entry) -> HubFile:
    if entry.lfs is not None:
        return HubFile(path=entry.path, size=entry.lfs.size, sha256=entry.lfs.sha256)
    return HubFile(path=entry.path, size=entry.size, sha256=None, git_id=entry.blob_id or "")


def select_paths(paths: list[str], request: RepositoryRequest) -> list[str]:
    """Return the paths that match the patterns, by the client's own rules."""
    from huggingface_hub.utils import filter_repo_objects

    return list(filter_repo_objects(paths, **request.patterns))


def refuse_hostile(paths: list[str], *, what: str) -> None:
    """Raise `HubError` for a name that is not a plain relative path on every system, or that is both a file and a folder.

    The client refuses some of these too, but only when it reaches that file, after it has written others.
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
