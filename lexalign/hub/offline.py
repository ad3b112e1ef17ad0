"""With HF_HUB_OFFLINE=1: what an earlier run left on this disk."""

import logging
import os
from pathlib import Path

from lexalign.errors import HubError
from lexalign.hub.cache_layout import hash_file
from lexalign.hub.listing import select_paths
from lexalign.hub.repository import FetchedRepository, HubFile, RepositoryRequest

log = logging.getLogger(__name__)


def fetch_from_cache(wanted: RepositoryRequest) -> FetchedRepository:
    """What is here. The hub's hashes are not at hand, so a file is only held against the name that the cache gave it.

    Raises `HubError` when a file is missing or damaged.
    """
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError, RevisionResolutionError

    repository = {"repo_id": wanted.repo, "repo_type": wanted.kind, "local_files_only": True}
    try:
        commit = HfApi().resolve_revision(revision=wanted.revision, **repository)
        folder = Path(snapshot_download(revision=commit, local_dir=wanted.output_dir, **repository, **wanted.patterns))
    except (LocalEntryNotFoundError, RevisionResolutionError):
        where = wanted.output_dir or constants.HF_HUB_CACHE
        raise HubError(
            f"{wanted} at {wanted.revision or 'main'} is not, or not wholly, in {where}, and HF_HUB_OFFLINE is set: unset it, or "
            "run this where there is a network and copy the folder here"
        ) from None
    log.info("hub: offline, %s is taken as it lies in %s", wanted, folder)
    paths = (Path(parent, name).relative_to(folder) for parent, _, names in os.walk(folder) for name in names)
    chosen = select_paths([path.as_posix() for path in paths if path.parts[0] != ".cache"], wanted)
    return FetchedRepository(
        repo=wanted.repo,
        kind=wanted.kind,
        revision=wanted.revision,
        commit=commit.resolved,
        folder=folder,
        files=[_checked(folder, path) for path in sorted(chosen)],
    )


def _checked(folder: Path, path: str) -> HubFile:
    file = folder / path
    sha256 = hash_file(file)
    if file.is_symlink() and len(name := file.readlink().name) == 64 and name != sha256:
        raise HubError(f"{file} is damaged (its sha256 is {sha256}): unset HF_HUB_OFFLINE and run again to fetch it anew")
    return HubFile(path=path, size=file.stat().st_size, sha256=sha256, present=True)
