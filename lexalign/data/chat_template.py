"""Chat templates are programs that come with a tokenizer: one that never ends or never stops writing is found before it meets the data."""

import logging
import os
import signal
import time
from pathlib import Path
from typing import Any

from lexalign.errors import ConfigError

log = logging.getLogger(__name__)
LONGEST_TEMPLATE = 1 << 20
"""Characters of a template."""
LONGEST_TEXT = 1 << 20
"""Characters that a conversation of two short turns may become."""
SECONDS = 2
"""Of computing, for all of the conversations."""
ROOM = 1 << 30
"""Bytes that rendering may take, where a limit on this process (ulimit -v) leaves so many."""
OTHER = "name another tokenizer with model.tokenizer=<hub id or folder>, or type data.chat_template=never"
CHAT_WORDS = ("auto", "always", "never")
"""What `data.chat_template` may be beside the path of a template."""
TURNS = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello to you"}]
FINE, TOO_LONG, TOO_LARGE, FAILED = 0, 10, 11, 12


def set_template(tokenizer: Any, setting: str) -> None:
    """Give the tokenizer the template of one's own that `data.chat_template` names; it is saved with the model."""
    if setting not in CHAT_WORDS:
        tokenizer.chat_template = Path(setting).expanduser().read_text(encoding="utf-8")


def check_template(tokenizer: Any, name: str) -> None:
    """Render two short conversations in a process of their own that may take little time and memory; raises ConfigError over that."""
    texts = tokenizer.chat_template or ""
    longest = max(map(len, texts.values() if isinstance(texts, dict) else [texts]), default=0)
    where = f"the chat template of {name}"
    if longest > LONGEST_TEMPLATE:
        raise ConfigError(f"{where} has {longest:,} characters, more than the {LONGEST_TEMPLATE:,} allowed; {OTHER}")
    if not longest:
        return
    if not hasattr(os, "fork"):
        log.warning("%s is not tried first: this system has no fork", where.capitalize())
        return
    room = find_room()
    ended = try_rendering(tokenizer, room)
    if ended is None:
        raise ConfigError(f"{where} does not come to an end within {SECONDS} s on two short turns; {OTHER}")
    if ended == TOO_LONG:
        raise ConfigError(f"{where} makes more than {LONGEST_TEXT:,} characters of two short turns; {OTHER}")
    if ended == TOO_LARGE:
        limit = "" if room == ROOM else ", which is what the limit on this process (ulimit -v) leaves"
        raise ConfigError(f"{where} takes more than {room >> 20} MiB for two short turns{limit}; {OTHER}")
    if ended != FINE:
        raise ConfigError(f"{where} cannot be tried: the process that renders two short turns ended with exit code {ended}; {OTHER}")


def find_room() -> int:
    """Bytes that rendering may take: ROOM, or less where this process has a limit of its own."""
    import resource

    import psutil

    soft = resource.getrlimit(resource.RLIMIT_AS)[0] if hasattr(resource, "RLIMIT_AS") else resource.RLIM_INFINITY
    if soft == resource.RLIM_INFINITY:
        return ROOM
    return max(0, min(ROOM, soft - psutil.Process().memory_info().vms))


def try_rendering(tokenizer: Any, room: int) -> int | None:
    """How a child that renders in `room` bytes ended; None where it had to be stopped."""
    child = os.fork()
    if child == 0:
        code = FAILED
        try:
            code = render_in_child(tokenizer, room)
        finally:
            os._exit(code)  # whatever happened: the child never goes on as the run
    deadline = time.monotonic() + 10 * SECONDS  # a busy machine may give it little of the time it may take
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def render_in_child(tokenizer: Any, room: int) -> int:
    """In the child: limit it, render, and tell how it went. What a template refuses to render is not judged here."""
    import resource

    import psutil

    lower_limit(resource.RLIMIT_CPU, SECONDS)
    if hasattr(resource, "RLIMIT_AS"):
        lower_limit(resource.RLIMIT_AS, psutil.Process().memory_info().vms + room)
    try:
        for turns, more in ((TURNS[:1], True), (TURNS, False)):
            if len(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=more)) > LONGEST_TEXT:
                return TOO_LONG
    except MemoryError:
        return TOO_LARGE
    except Exception:
        pass
    return FINE


def lower_limit(kind: int, most: int) -> None:
    """Limit this process to `most`, or to less where its own limit is lower: a limit cannot be raised."""
    import resource

    limits = [most, *(limit for limit in resource.getrlimit(kind) if limit != resource.RLIM_INFINITY)]
    resource.setrlimit(kind, (min(limits), min(limits)))
