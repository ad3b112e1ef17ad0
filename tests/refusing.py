"""What a command line is refused for, in this process."""

from collections.abc import Sequence

import pytest

from lexalign.launch import check_command_line


def problems_of(words: str | Sequence[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The problems a command line is refused with; empty where it is accepted."""
    words = words.split() if isinstance(words, str) else list(words)
    try:
        check_command_line(words)
    except SystemExit as stop:
        assert stop.code == 2
        head, *problems = capsys.readouterr().err.splitlines()
        assert head.endswith("in the settings; nothing was run or written:")
        assert all(problem.startswith(("  - ", "  … ")) for problem in problems), "one problem a line"
        return [problem[4:] for problem in problems]
    return []


def said(problems: Sequence[str], *fragments: str) -> bool:
    """Whether one of the problems holds all fragments."""
    return any(all(fragment in problem for fragment in fragments) for problem in problems)
