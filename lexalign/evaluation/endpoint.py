"""Ask a model behind an OpenAI-compatible endpoint (`POST <url>/chat/completions`), with retries. Its key is sent to nobody else."""

import json
import logging
import os
from typing import Any

import httpx2

from lexalign.config.schema import Judge
from lexalign.config.secrets import register_secret
from lexalign.hub.retries import BUSY, LONGEST_ASKED, RetryPolicy, get_asked_pause

log = logging.getLogger(__name__)
FIRST_PAUSE = 1.0
"""Seconds before a busy endpoint is asked again; each further pause is twice as long."""


class EndpointError(Exception):
    """The endpoint refused, did not answer, or answered something else. The message holds no key."""


class Endpoint:
    """One client for all questions of a measurement, which may come from several threads; a context manager."""

    def __init__(self, settings: Judge, *, first_pause: float = FIRST_PAUSE):
        assert settings.url is not None
        self.url = settings.url.rstrip("/") + "/chat/completions"
        self.model = settings.model
        self.key = os.environ.get(settings.key_env, "") if settings.key_env else ""
        register_secret(self.key)
        self.retry_policy = RetryPolicy(retries=settings.retries, first_pause=first_pause)
        # No redirects: one could lead elsewhere with the key.
        self.client = httpx2.Client(timeout=settings.timeout, follow_redirects=False)

    def __enter__(self) -> "Endpoint":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.client.close()

    def ask(self, system: str, question: str) -> str:
        """Return the answer's text. Raises EndpointError when the retries are used up."""
        turns = [{"role": "system", "content": system}, {"role": "user", "content": question}]
        body = {"model": self.model, "messages": turns, "temperature": 0}
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        attempt = 0
        while True:
            attempt += 1
            asked_pause = None
            try:
                answer = self.client.post(self.url, json=body, headers=headers)
            except httpx2.TransportError as error:
                problem = type(error).__name__
            else:
                if answer.status_code not in BUSY:
                    return self.read_answer(answer)
                problem, asked_pause = f"status {answer.status_code}", get_asked_pause(answer.headers)
            if attempt > self.retry_policy.retries or (asked_pause or 0) > LONGEST_ASKED:
                raise EndpointError(f"{self.url}: {problem}, asked {attempt} times")
            log.debug("judge: %s, asking again (%d of %d)", problem, attempt, self.retry_policy.retries)
            self.retry_policy.pause(attempt, asked_pause)

    def read_answer(self, answer: Any) -> str:
        """Return the text of a complete answer."""
        if answer.status_code != 200:
            raise EndpointError(f"{self.url}: status {answer.status_code}: {self.without_key(answer.text)[:200]}")
        try:
            text = answer.json()["choices"][0]["message"]["content"]
        except (json.JSONDecodeError, UnicodeDecodeError, LookupError, TypeError) as error:
            raise EndpointError(f"{self.url}: is no chat completion ({self.without_key(answer.text)[:200]!r})") from error
        return text or ""

    def without_key(self, text: str) -> str:
        """Return a text from the endpoint without the key, which it may repeat."""
        return text.replace(self.key, "…") if self.key else text
