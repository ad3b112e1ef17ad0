"""One repository at one commit, whole and checked: in the hub's own cache, where `from_pretrained` looks, or in a folder."""

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
    """The files of a repository at what `revision` (null = main) is now; with `dry_run` nothing is written.

    What is here already is checked and kept, what is damaged is fetched again. With HF_HUB_OFFLINE=1 it is what the cache holds.
    `first_pause` is the wait before the first repetition of a request; later ones double it.

    Raises `HubError` when the repository cannot be had whole and sound.
    """
    from huggingface_hub import is_offline_mode

    wanted = RepositoryRequest(
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
            return fetch_from_cache(wanted)
        with patience.applied():
            commit = listing.resolve_revision(wanted, remember=not dry_run)
            files = listing.list_files(wanted, commit=commit.resolved)
            places = {file.path: get_cached_file(file, wanted, commit=commit.resolved) for file in files}
            if dry_run:
                files = [replace(file, present=places[file.path].holds(file.size)) for file in files]
            else:
                files = _from_hub(wanted, commit=commit, files=files, places=places, workers=workers, patience=patience)
    except HubError:
        raise
    except Exception as error:
        told = messages.explain_error(error, wanted)
        if told is error:
            raise
        raise told from None  # the client's own text may repeat what the hub sent, a token included
    folder = get_folder(wanted, commit=commit.resolved)
    return FetchedRepository(repo=repo, kind=kind, revision=revision, commit=commit.resolved, folder=folder, files=files)


def _from_hub(
    wanted: RepositoryRequest, *, commit, files: list[HubFile], places: dict[str, CachedFile], workers: int, patience: RetryPolicy
) -> list[HubFile]:
    """Fetch and check; returns the files, every sha256 known."""
    from huggingface_hub import constants, snapshot_download

    if wanted.output_dir is not None:
        refuse_links(wanted.output_dir, [file.path for file in files])
    refuse_full_disk(files, places, what=str(wanted))
    # Above this size a plain request is refused by the hub's store: the client fetches those its own way (Xet).
    large = [file for file in files if file.large and file.size <= constants.MAX_HTTP_DOWNLOAD_SIZE]
    _ensure_all(large, wanted, commit=commit.resolved, places=places, workers=workers, patience=patience)
    rest = [file for file in files if file not in set(large)]
    for _ in range(2):
        # The small files, the links to the large ones, and the client's notes for offline runs.
        snapshot_download(
            wanted.repo,
            repo_type=wanted.kind,
            revision=commit,
            local_dir=wanted.output_dir,
            max_workers=workers,
            library_name="lexalign",
            **wanted.patterns,
        )
        checked = {file: _checked(file, places[file.path]) for file in rest}
        damaged = [file for file in rest if checked[file] is None]
        if not damaged:
            return [checked.get(file, file) for file in files]
        for file in damaged:
            log.warning("hub: %s is damaged (its hash is not the hub's): fetching it again", file.path)
            places[file.path].discard()
    raise messages.make_damaged_error(", ".join(file.path for file in damaged))


def _ensure_all(
    files: list[HubFile], wanted: RepositoryRequest, *, commit: str, places: dict[str, CachedFile], workers: int, patience: RetryPolicy
) -> None:
    from huggingface_hub import hf_hub_url

    with ThreadPoolExecutor(max_workers=workers, thread_name_prefix="hub") as pool:
        urls = [hf_hub_url(wanted.repo, file.path, repo_type=wanted.kind, revision=commit) for file in files]
        pairs = zip(files, urls, strict=True)
        jobs = [pool.submit(ensure_file, file, places[file.path], url=url, patience=patience) for file, url in pairs]
        try:
            for job in as_completed(jobs):
                job.result()
        except BaseException:  # Ctrl-C too: what has arrived stays for the next run
            patience.stopped.set()
            pool.shutdown(cancel_futures=True)
            raise


def _checked(file: HubFile, place: CachedFile) -> HubFile | None:
    """The file with its sha256 when its content is the hub's, else None."""
    if file.large:
        return file if hash_file(place.path) == file.sha256 else None
    content = place.path.read_bytes()
    if hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() != file.git_id:
        return None
    return replace(file, sha256=hashlib.sha256(content).hexdigest())
