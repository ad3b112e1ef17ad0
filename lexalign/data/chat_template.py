"""Check chat templates before they render data. A template is a program, and may run without end or write too much text."""

import logging
import os
import signal
import time
from pathlib import Path
from typing import Any

from lexalign.errors import ConfigError

log = logging.getLogger(__name__)
LONGEST_TEMPLATE = 1 << 20
"""Largest number of characters in a template."""
LONGEST_TEXT = 1 << 20
"""Largest number of characters that a template may write for two short turns."""
SECONDS = 2
"""Seconds of computing time for all test conversations."""
ROOM = 1 << 30
"""Bytes that rendering may use, if the limit of this process (ulimit -v) allows them."""
OTHER = "name another tokenizer with model.tokenizer=<hub id or folder>, or type data.chat_template=never"
CHAT_WORDS = ("auto", "always", "never")
"""Values of `data.chat_template` that are not the path of a template."""
TURNS = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello to you"}]
FINE, TOO_LONG, TOO_LARGE, FAILED = 0, 10, 11, 12


def set_template(tokenizer: Any, setting: str) -> None:
    """Give the tokenizer the template in the file that `data.chat_template` names. It is saved with the model."""
    if setting not in CHAT_WORDS:
        tokenizer.chat_template = Path(setting).expanduser().read_text(encoding="utf-8")


def check_template(tokenizer: Any, name: str) -> None:
    """Render two short conversations in a child process with limits on time and memory; raises ConfigError if it exceeds them."""
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
    memory = find_room()
    exit_code = try_rendering(tokenizer, memory)
    if exit_code is None:
        raise ConfigError(f"{where} does not come to an end within {SECONDS} s on two short turns; {OTHER}")
    if exit_code == TOO_LONG:
        raise ConfigError(f"{where} makes more than {LONGEST_TEXT:,} characters of two short turns; {OTHER}")
    if exit_code == TOO_LARGE:
        limit = "" if memory == ROOM else ", which is what the limit on this process (ulimit -v) leaves"
        raise ConfigError(f"{where} takes more than {memory >> 20} MiB for two short turns{limit}; {OTHER}")
    if exit_code != FINE:
        raise ConfigError(f"{where} cannot be tried: the process that renders two short turns ended with exit code {exit_code}; {OTHER}")


def find_room() -> int:
    """Bytes that rendering may use: ROOM, or less if this process has a lower limit."""
    import resource

    import psutil

    soft_limit = resource.getrlimit(resource.RLIMIT_AS)[0] if hasattr(resource, "RLIMIT_AS") else resource.RLIM_INFINITY
    if soft_limit == resource.RLIM_INFINITY:
        return ROOM
    return max(0, min(ROOM, soft_limit - psutil.Process().memory_info().vms))


def try_rendering(tokenizer: Any, room: int) -> int | None:
    """Exit code of a child process that renders within `room` bytes; None if it had to be stopped."""
    pid = os.fork()
    if pid == 0:
        exit_code = FAILED
        try:
            exit_code = render_in_child(tokenizer, room)
        finally:
            os._exit(exit_code)  # in every case: the child must not continue as the run
    deadline = time.monotonic() + 10 * SECONDS  # on a busy machine the child may get little computing time
    while time.monotonic() < deadline:
        ended_pid, status = os.waitpid(pid, os.WNOHANG)
        if ended_pid:
            return os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def render_in_child(tokenizer: Any, room: int) -> int:
    """In the child: set the limits, render, and return the exit code. An error of the template itself is no failure here."""
    import resource

    import psutil

    lower_limit(resource.RLIMIT_CPU, SECONDS)
    if hasattr(resource, "RLIMIT_AS"):
        lower_limit(resource.RLIMIT_AS, psutil.Process().memory_info().vms + room)
    try:
        for turns, is_prompt in ((TURNS[:1], True), (TURNS, False)):
            if len(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=is_prompt)) > LONGEST_TEXT:
                return TOO_LONG
    except MemoryError:
        return TOO_LARGE
    except Exception:
        pass
    return FINE


def lower_limit(kind: int, most: int) -> None:
    """Limit this process to `most`, or to its current limit if that is lower: a limit cannot be raised."""
    import resource

    limits = [most, *(limit for limit in resource.getrlimit(kind) if limit != resource.RLIM_INFINITY)]
    resource.setrlimit(kind, (min(limits), min(limits)))
