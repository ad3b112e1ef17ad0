"""The terminal side of a conversation: input lines, answers and commands. No torch."""

import select
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from lexalign.config.secrets import escape_control
from lexalign.errors import Stopped

PROMPT = "you> "
LOOK = 0.2
"""Seconds between two checks for input."""
RESET, EXIT = "/reset", "/exit"
INTERRUPTED = 130
"""Exit code of Ctrl-C. SIGTERM has a different one."""
Write = Callable[[str], None]


class Speaker(Protocol):
    """A model that answers."""

    name: str

    def answer(self, text: str, *, turn: int, write: Write) -> str:
        """Return the answer to a text, and write it as it is generated. `turn` counts from 0."""

    def forget(self) -> None:
        """Start a new conversation."""


def talk(speakers: Sequence[Speaker]) -> list[dict[str, str]]:
    """Let each speaker answer every line until the input ends, or /exit, Ctrl-D or Ctrl-C; return the turns."""
    answers: list[dict[str, str]] = []
    turn = 0
    try:
        for line in read_lines():
            if line == EXIT:
                break
            if line == RESET:
                turn = 0
                for speaker in speakers:
                    speaker.forget()
                write_now("(a new conversation)\n")
            elif line.startswith("/"):
                write_now(
                    f"({line.split()[0]}: unknown command; there are {RESET} and {EXIT}. Type a space before a text that begins with /)\n"
                )
            elif line.strip():
                answers.append(answer_line(speakers, line.strip(), turn))
                turn += 1
    except (Stopped, KeyboardInterrupt) as stop:
        if isinstance(stop, Stopped) and stop.exit_code != INTERRUPTED:
            raise
        write_now("\n")
    return answers


def answer_line(speakers: Sequence[Speaker], text: str, turn: int) -> dict[str, str]:
    """Return a line (as `prompt`) and the answer of each speaker by its name."""
    answers = {"prompt": text}
    width = max(len(speaker.name) for speaker in speakers)
    for speaker in speakers:
        if len(speakers) > 1:
            write_now(f"{speaker.name:>{width}}: ")
        answers[speaker.name] = speaker.answer(text, turn=turn, write=write_now)
        write_now("\n")
    return answers


def read_lines() -> Iterator[str]:
    """Yield the input lines from the terminal or a pipe."""
    if sys.stdin.isatty():
        import readline  # noqa: F401 - input() then has a history and arrow keys

        while True:
            try:
                yield read_typed_line().rstrip()
            except EOFError:
                write_now("\n")
                return
    for line in sys.stdin:
        yield line.rstrip()


def read_typed_line() -> str:
    """Read a line from the terminal. Raises EOFError at the end."""
    if sys.stdout.isatty():
        return input(PROMPT)
    write_now(PROMPT)
    while not select.select([sys.stdin], [], [], LOOK)[0]:  # a blocking read would miss a signal that comes just before it
        pass
    if not (line := sys.stdin.readline()):
        raise EOFError
    return line


def write_now(text: str) -> None:
    """Write at once, without waiting for the end of a line."""
    sys.stdout.write(escape_control(text))
    sys.stdout.flush()
