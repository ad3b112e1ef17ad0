"""Every request to the hub waits and is asked again by one rule, those that the client makes itself included.

The client's own rules differ from call to call: a 503 on a file and any failure of the first call are not asked again at all, and
then an older copy in the cache may silently stand in. So its `httpx2` client is replaced while a fetch lasts.
"""

import functools
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from lexalign.errors import HubError
from lexalign.hub import messages

log = logging.getLogger(__name__)

BUSY = {408, 429, 500, 502, 503, 504}
LONGEST_PAUSE = 30.0
"""Our own pauses grow up to so many seconds."""
LONGEST_ASKED = 330.0
"""A pause that the hub asks for is kept up to so many seconds: its rate limits count over five minutes."""


class RetryPolicy:
    """How often and how long one fetch waits.

    Use `with patience.applied():`; inside it, requests raise `HubError` once patience is at its end, and nothing else for
    connections that fail before an answer or for answers in `BUSY`.
    """

    def __init__(self, *, retries: int, first_pause: float):
        self.retries = retries
        self.first_pause = first_pause
        self.stopped = threading.Event()
        """Set by the main thread when the fetch is given up, so that no worker waits or reads on."""
        self._answered = False

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The hub's session is a patient one inside, and the former one again outside."""
        from huggingface_hub import set_client_factory
        from huggingface_hub.utils import _http

        former = _http._GLOBAL_CLIENT_FACTORY  # there is a public setter, but no public getter
        chatter = logging.getLogger("httpx2")
        level = chatter.level
        chatter.setLevel(logging.WARNING)  # it logs every address, the signed ones of the hub's store too
        set_client_factory(functools.partial(self._client, former))
        try:
            yield
        finally:
            set_client_factory(former)
            chatter.setLevel(level)

    def pause(self, attempt: int, asked: float | None = None) -> None:
        """Wait before attempt number `attempt` (from 1) is repeated, or for as long as the hub `asked`."""
        self.stopped.wait(min(self.first_pause * 2 ** (attempt - 1), LONGEST_PAUSE) if asked is None else asked)
        if self.stopped.is_set():
            raise HubError("the download was stopped")

    def _client(self, former) -> Any:
        client = former()
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
            asked = None
            try:
                response = send(request, **options)
            except httpx2.TransportError as error:
                # Nothing has answered yet: most likely there is no network, and to wait long would only hide it.
                if attempt > (self.retries if self._answered else min(self.retries, 1)):
                    raise messages.make_unreachable_error(error) from None
                problem = type(error).__name__
            else:
                self._answered = True
                if response.status_code not in BUSY:
                    return response
                response.close()
                asked = get_asked_pause(response.headers)
                if attempt > self.retries or (asked or 0) > LONGEST_ASKED:
                    raise messages.make_busy_error(response.status_code, attempts=attempt, asked=asked)
                problem = f"status {response.status_code}"
            log.warning("hub: %s, asking again (%d of %d)", problem, attempt, self.retries)
            self.pause(attempt, asked)


def get_asked_pause(headers) -> float | None:
    """Seconds that an answer asks to wait (`Retry-After` as a number or a date, or the hub's `RateLimit`), or None."""
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
