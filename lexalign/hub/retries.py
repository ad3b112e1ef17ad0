"""One retry policy for every request to the hub, including those that the hub's client makes itself.

The client's own rules differ from call to call: it does not retry a 503 on a file or any failure of the first call, and may then use
an older copy from the cache without a word. So its `httpx2` client is replaced during a fetch.
"""

import functools
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from lexalign.compat import replace_hub_client
from lexalign.errors import HubError
from lexalign.hub import messages

log = logging.getLogger(__name__)

BUSY = {408, 429, 500, 502, 503, 504}
LONGEST_PAUSE = 30.0
"""Maximum length in seconds of a pause that we choose."""
LONGEST_ASKED = 330.0
"""Maximum length in seconds of a pause that the hub asks for. Its rate limits count over five minutes."""


class RetryPolicy:
    """How often and how long one fetch waits.

    Use `with policy.replace_client():`. Inside it, requests raise `HubError` when all retries have failed, and nothing else for
    connections that fail before an answer or for a status in `BUSY`.
    """

    def __init__(self, *, retries: int, first_pause: float):
        self.retries = retries
        self.first_pause = first_pause
        self.stopped = threading.Event()
        """Set by the main thread when the fetch is abandoned, so that every worker stops."""
        self._answered = False

    @contextmanager
    def replace_client(self) -> Iterator[None]:
        """During the block, the hub's client follows this policy."""
        with replace_hub_client(self._wrap_client):
            yield

    def pause(self, attempt: int, seconds: float | None = None) -> None:
        """Wait before attempt number `attempt` (from 1) is repeated, or `seconds` where the hub names them."""
        self.stopped.wait(min(self.first_pause * 2 ** (attempt - 1), LONGEST_PAUSE) if seconds is None else seconds)
        if self.stopped.is_set():
            raise HubError("the download was stopped")

    def _wrap_client(self, client: Any) -> Any:
        client.send = functools.partial(self._send, client.send)
        return client

    def _send(self, send, request, **options) -> Any:
        import httpx2
        from huggingface_hub import constants

        if not any(request.extensions.get("timeout", {}).values()):  # some of the client's calls would wait for ever
            timeout = httpx2.Timeout(constants.HF_HUB_DOWNLOAD_TIMEOUT).as_dict()
            request.extensions = {**request.extensions, "timeout": timeout}
        attempt = 0
        while True:
            attempt += 1
            pause = None
            try:
                response = send(request, **options)
            except httpx2.TransportError as error:
                # No answer so far: most likely there is no network, and a long wait would only hide that.
                if attempt > (self.retries if self._answered else min(self.retries, 1)):
                    raise messages.make_unreachable_error(error) from None
                problem = type(error).__name__
            else:
                self._answered = True
                if response.status_code not in BUSY:
                    return response
                response.close()
                pause = get_asked_pause(response.headers)
                if attempt > self.retries or (pause or 0) > LONGEST_ASKED:
                    raise messages.make_busy_error(response.status_code, attempts=attempt, pause=pause)
                problem = f"status {response.status_code}"
            log.warning("hub: %s, retry %d of %d", problem, attempt, self.retries)
            self.pause(attempt, pause)


def get_asked_pause(headers) -> float | None:
    """Return the seconds that an answer asks to wait (`Retry-After` as a number or a date, or the hub's `RateLimit`), or None."""
    from huggingface_hub.utils import parse_ratelimit_headers

    value = headers.get("Retry-After", "").strip()
    if value.isdigit():
        return float(value)
    if value:
        try:
            return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
        except (ValueError, TypeError):
            log.debug("hub: Retry-After %r is neither a number nor a date", value)
    limit = parse_ratelimit_headers(headers)
    return float(limit.reset_in_seconds) if limit is not None and limit.remaining == 0 else None
