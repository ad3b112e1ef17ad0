"""Fetch one repository at one commit, complete and checked, into the hub's cache (where `from_pretrained` looks) or a folder."""

import hashlib
import logging
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path

from lexalign.errors import HubError
from lexalign.hub import listing, messages
from lexalign.hub.cache_layout import CachedFile, get_cached_file, get_folder, hash_file, refuse_full_disk, refuse_links
from lexalign.hub.large_files import ensure_file
from lexalign.hub.offline import fetch_from_cache
from lexalign.hub.repository import FetchedRepository, HubFile, Kind, RepositoryRequest
from lexalign.hub.retries import RetryPolicy

log = logging.getLogger(__name__)


def fetch(
    *,
    repo: str,
    kind: Kind,
    revision: str | None,
    include: list[str],
    exclude: list[str],
    output_dir: str | Path | None,
    workers: int,
    retries: int,
    dry_run: bool = False,
    first_pause: float = 1.0,
) -> FetchedRepository:
    """Fetch the files of a repository at the current commit of `revision` (null = main). With `dry_run` nothing is written.

    Existing files are checked; damaged ones are fetched again. With HF_HUB_OFFLINE=1 the files come from the cache.
    `first_pause` is the wait in seconds before the first retry of a request; each later wait is twice as long.

    Raises `HubError` if the repository cannot be fetched complete and undamaged.
    """
    from huggingface_hub import is_offline_mode

    request = RepositoryRequest(
        repo=repo,
        kind=kind,
        revision=revision,
        include=list(include),
        exclude=list(exclude),
        output_dir=Path(output_dir).expanduser().absolute() if output_dir is not None else None,
    )
    patience = RetryPolicy(retries=retries, first_pause=first_pause)
    try:
        if is_offline_mode():
            return fetch_from_cache(request)
        with patience.replace_client():
            commit = listing.resolve_revision(request, remember=not dry_run)
            files = listing.list_files(request, commit=commit.resolved)
            places = {file.path: get_cached_file(file, request, commit=commit.resolved) for file in files}
            if dry_run:
                files = [replace(file, is_present=places[file.path].holds(file.size)) for file in files]
            else:
                files = fetch_files(request, commit=commit, files=files, places=places, workers=workers, patience=patience)
    except HubError:
        raise
    except Exception as error:
        explained = messages.explain_error(error, request)
        if explained is error:
            raise
        raise explained from None  # the client's own text may repeat what the hub sent, a token included
    folder = get_folder(request, commit=commit.resolved)
    return FetchedRepository(repo=repo, kind=kind, revision=revision, commit=commit.resolved, folder=folder, files=files)


def fetch_files(
    request: RepositoryRequest, *, commit, files: list[HubFile], places: dict[str, CachedFile], workers: int, patience: RetryPolicy
) -> list[HubFile]:
    """Fetch and check the files; return them with every sha256 filled in."""
    from huggingface_hub import constants, snapshot_download

    if request.output_dir is not None:
        refuse_links(request.output_dir, [file.path for file in files])
    refuse_full_disk(files, places, what=str(request))
    # The hub's store refuses plain requests above this size: the client fetches those through Xet.
    large = [file for file in files if file.is_large and file.size <= constants.MAX_HTTP_DOWNLOAD_SIZE]
    ensure_large_files(large, request, commit=commit.resolved, places=places, workers=workers, patience=patience)
    rest = [file for file in files if file not in set(large)]
    for _ in range(2):
        # The small files, the links to the large ones, and the client's metadata for offline runs.
        snapshot_download(
            request.repo,
            repo_type=request.kind,
            revision=commit,
            local_dir=request.output_dir,
            max_workers=workers,
            library_name="lexalign",
            **request.patterns,
        )
        checked = {file: check_file(file, places[file.path]) for file in rest}
        damaged = [file for file in rest if checked[file] is None]
        if not damaged:
            return [checked.get(file, file) for file in files]
        for file in damaged:
            log.warning("hub: %s is damaged (its hash is not the hub's): fetching it again", file.path)
            places[file.path].discard()
    raise messages.make_damaged_error(", ".join(file.path for file in damaged))


def ensure_large_files(
    files: list[HubFile], request: RepositoryRequest, *, commit: str, places: dict[str, CachedFile], workers: int, patience: RetryPolicy
) -> None:
    from huggingface_hub import hf_hub_url

    with ThreadPoolExecutor(max_workers=workers, thread_name_prefix="hub") as pool:
        urls = [hf_hub_url(request.repo, file.path, repo_type=request.kind, revision=commit) for file in files]
        pairs = zip(files, urls, strict=True)
        jobs = [pool.submit(ensure_file, file, places[file.path], url=url, patience=patience) for file, url in pairs]
        try:
            for job in as_completed(jobs):
                job.result()
        except BaseException:  # Ctrl-C too: the next run continues with the bytes that arrived
            patience.stopped.set()
            pool.shutdown(cancel_futures=True)
            raise


def check_file(file: HubFile, place: CachedFile) -> HubFile | None:
    """Return the file with its sha256 if its content is the hub's, else None."""
    if file.is_large:
        return file if hash_file(place.path) == file.sha256 else None
    content = place.path.read_bytes()
    if hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() != file.git_id:
        return None
    return replace(file, sha256=hashlib.sha256(content).hexdigest())
