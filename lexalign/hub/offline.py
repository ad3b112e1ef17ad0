"""With HF_HUB_OFFLINE=1: the files that an earlier run fetched."""

import logging
import os
from pathlib import Path

from lexalign.errors import HubError
from lexalign.hub.cache_layout import hash_file
from lexalign.hub.listing import select_paths
from lexalign.hub.repository import FetchedRepository, HubFile, RepositoryRequest

log = logging.getLogger(__name__)


def fetch_from_cache(request: RepositoryRequest) -> FetchedRepository:
    """Return a repository from the cache. The hub's hashes are not available: a large file is checked against its name in the cache.

    Raises `HubError` if a file is missing or damaged.
    """
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError, RevisionResolutionError

    repository = {"repo_id": request.repo, "repo_type": request.kind, "local_files_only": True}
    try:
        commit = HfApi().resolve_revision(revision=request.revision, **repository)
        folder = Path(snapshot_download(revision=commit, local_dir=request.output_dir, **repository, **request.patterns))
    except (LocalEntryNotFoundError, RevisionResolutionError):
        where = request.output_dir or constants.HF_HUB_CACHE
        raise HubError(
            f"{request} at {request.revision or 'main'} is not in {where}, or not completely, and HF_HUB_OFFLINE is set: unset it, or "
            "run this on a machine with a network and copy the folder here"
        ) from None
    log.info("hub: offline, %s is read from %s", request, folder)
    paths = (Path(parent, name).relative_to(folder) for parent, _, names in os.walk(folder) for name in names)
    chosen = select_paths([path.as_posix() for path in paths if path.parts[0] != ".cache"], request)
    return FetchedRepository(
        repo=request.repo,
        kind=request.kind,
        revision=request.revision,
        commit=commit.resolved,
        folder=folder,
        files=[check_file(folder, path) for path in sorted(chosen)],
    )


def check_file(folder: Path, path: str) -> HubFile:
    file = folder / path
    sha256 = hash_file(file)
    if file.is_symlink() and len(name := file.readlink().name) == 64 and name != sha256:
        raise HubError(f"{file} is damaged (its sha256 is {sha256}): unset HF_HUB_OFFLINE and run again to fetch it anew")
    return HubFile(path=path, size=file.stat().st_size, sha256=sha256, is_present=True)
