"""The terminal's side of a conversation: lines in, answers out, the commands in between. No torch."""

import select
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from lexalign.errors import Stopped

PROMPT = "you> "
LOOK = 0.2
"""Seconds between two looks at the terminal."""
RESET, EXIT = "/reset", "/exit"
INTERRUPTED = 130
"""Exit code of Ctrl-C, by which it is told from SIGTERM."""
Write = Callable[[str], None]


class Speaker(Protocol):
    """One that answers."""

    name: str

    def answer(self, text: str, *, turn: int, write: Write) -> str:
        """The answer to a text, written as it comes; `turn` counts from 0."""

    def forget(self) -> None:
        """Begin a new conversation."""


def talk(speakers: Sequence[Speaker]) -> list[dict[str, str]]:
    """Have every line answered by each speaker, until the lines end, /exit, Ctrl-D or Ctrl-C; what was said, turn by turn."""
    said: list[dict[str, str]] = []
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
                write_now(f"({line.split()[0]}: there are {RESET} and {EXIT}; a text that begins with / is typed after a space)\n")
            elif line.strip():
                said.append(answer_line(speakers, line.strip(), turn))
                turn += 1
    except (Stopped, KeyboardInterrupt) as stop:
        if isinstance(stop, Stopped) and stop.exit_code != INTERRUPTED:
            raise
        write_now("\n")
    return said


def answer_line(speakers: Sequence[Speaker], text: str, turn: int) -> dict[str, str]:
    """The answers of all speakers to a line, by their names, under the line itself."""
    found = {"prompt": text}
    width = max(len(speaker.name) for speaker in speakers)
    for speaker in speakers:
        if len(speakers) > 1:
            write_now(f"{speaker.name:>{width}}: ")
        found[speaker.name] = speaker.answer(text, turn=turn, write=write_now)
        write_now("\n")
    return found


def read_lines() -> Iterator[str]:
    """What is typed, or comes through a pipe, line by line."""
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
    """A line from the terminal; raises EOFError at the end."""
    if sys.stdout.isatty():
        return input(PROMPT)
    write_now(PROMPT)
    while not select.select([sys.stdin], [], [], LOOK)[0]:  # a signal between the prompt and a read that waits would not be heard
        pass
    if not (line := sys.stdin.readline()):
        raise EOFError
    return line


def write_now(text: str) -> None:
    """Write at once, without waiting for the end of a line."""
    sys.stdout.write(text)
    sys.stdout.flush()
