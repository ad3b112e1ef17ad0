"""Large files: a killed download is continued, and each file is checked against the hub's sha256.

The client starts a download again in each new process, and it compares sizes only. Here a file grows under one name, is continued with a
range request, and gets its final name once its hash is right.
"""

import hashlib
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from lexalign.errors import HubError
from lexalign.hub import messages
from lexalign.hub.cache_layout import CachedFile, hash_file
from lexalign.hub.repository import HubFile
from lexalign.hub.retries import RetryPolicy

log = logging.getLogger(__name__)


def ensure_file(file: HubFile, place: CachedFile, *, url: str, patience: RetryPolicy) -> None:
    """Fetch a large file, or the missing part of it, and check it against the hub's sha256.

    Raises `HubError` if the file arrives damaged twice, and the client's errors for refusals.
    """
    from huggingface_hub.utils import WeakFileLock

    for folder in (place.lock.parent, place.target.parent, place.partial.parent):
        folder.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(place.lock):
        if place.existing is not None:
            if hash_file(place.existing) == file.sha256:
                return
            log.warning("hub: %s exists but is damaged (its sha256 is not the hub's): fetching it again", file.path)
        place.discard()
        if place.copy is not None and place.copy.is_file():
            shutil.copyfile(place.copy, place.partial)
        for _ in range(2):
            try:
                arrived = pull_file(file, place.partial, url=url, patience=patience)
            finally:
                if place.partial.stat().st_size == 0 < file.size:  # refused: leave nothing behind
                    place.partial.unlink()
            if arrived == file.sha256:
                os.replace(place.partial, place.target)
                return
            log.warning("hub: %s arrived damaged (its sha256 is not the hub's): starting it again", file.path)
            place.partial.unlink(missing_ok=True)
    raise messages.make_damaged_error(file.path)


def pull_file(file: HubFile, partial: Path, *, url: str, patience: RetryPolicy) -> str:
    """Append the missing part of a file to `partial`; return the sha256 of the whole.

    A broken connection is opened again as long as bytes arrive, and at most `patience.retries` times in a row without any.
    """
    import httpx2
    from huggingface_hub.utils import tqdm

    digest = hashlib.sha256()
    with partial.open("ab+") as out:
        out.seek(0)
        while block := out.read(1 << 20):
            digest.update(block)
        have, failures = out.tell(), 0
        if have:
            log.info("hub: %s is continued at byte %d of %d", file.path, have, file.size)
        bar = tqdm(desc=file.path[-40:], total=file.size, initial=have, unit="B", unit_scale=True, disable=None, name=__name__)
        with bar:
            while have < file.size:
                start = have
                try:
                    for block in stream_bytes(start, file=file, url=url):
                        out.write(block)
                        digest.update(block)
                        bar.update(len(block))
                        have += len(block)
                        if have > file.size:
                            break
                        if patience.stopped.is_set():
                            raise HubError("the download was stopped")
                except httpx2.TransportError as error:
                    failures = 0 if have > start else failures + 1
                    if failures > patience.retries:
                        raise messages.make_unreachable_error(error) from None
                    log.warning("hub: %s broke off at byte %d of %d (%s)", file.path, have, file.size, type(error).__name__)
                    patience.pause(failures + 1)
                else:
                    if have == start:  # an answer with nothing in it
                        break
    return digest.hexdigest()


def stream_bytes(start: int, *, file: HubFile, url: str) -> Iterator[bytes]:
    """Stream the bytes of a file from `start` on."""
    from huggingface_hub import get_session
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    # Ask the hub each time: it redirects to a store, whose signed address expires. httpx drops the token on that redirect.
    headers = build_hf_headers(library_name="lexalign", headers={"Accept-Encoding": "identity"})
    if start:
        headers["Range"] = f"bytes={start}-"
    with get_session().stream("GET", url, headers=headers) as response:
        if response.status_code == 416:  # the store has fewer bytes than the hub states
            return
        hf_raise_for_status(response)
        skip = start if response.status_code == 200 else 0  # a server without ranges sends it all again
        for block in response.iter_raw():
            yield block[skip:]
            skip = max(0, skip - len(block))
