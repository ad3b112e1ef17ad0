"""Ask a model behind an OpenAI-compatible endpoint (`POST <url>/chat/completions`), with retries. The key is sent only there."""

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
"""Seconds before the first retry at a busy endpoint. Each further pause is twice as long."""


class EndpointError(Exception):
    """The endpoint refused, did not answer, or gave no chat completion. The message does not contain the key."""


class Endpoint:
    """One client for all questions of a measurement, which may come from several threads. It is a context manager."""

    def __init__(self, settings: Judge, *, first_pause: float = FIRST_PAUSE):
        assert settings.url is not None
        self.url = settings.url.rstrip("/") + "/chat/completions"
        self.model = settings.model
        self.key = os.environ.get(settings.key_env, "") if settings.key_env else ""
        register_secret(self.key)
        self.retry_policy = RetryPolicy(retries=settings.retries, first_pause=first_pause)
        # No redirects: one could send the key to another server.
        self.client = httpx2.Client(timeout=settings.timeout, follow_redirects=False)

    def __enter__(self) -> "Endpoint":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.client.close()

    def ask(self, system: str, question: str) -> str:
        """Return the text of the answer. Raises EndpointError if the endpoint refuses, or if no retries are left."""
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
        """Return the text of an answer. Raises EndpointError if it is an error or not a chat completion."""
        if answer.status_code != 200:
            raise EndpointError(f"{self.url}: status {answer.status_code}: {self.without_key(answer.text)[:200]}")
        try:
            text = answer.json()["choices"][0]["message"]["content"]
        except (json.JSONDecodeError, UnicodeDecodeError, LookupError, TypeError) as error:
            raise EndpointError(f"{self.url}: is no chat completion ({self.without_key(answer.text)[:200]!r})") from error
        return text or ""

    def without_key(self, text: str) -> str:
        """Return a text from the endpoint with the key removed, because the endpoint may repeat it."""
        return text.replace(self.key, "…") if self.key else text
