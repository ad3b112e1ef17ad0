"""What a run says on the terminal at its end: metrics before and after, samples, where the artifact is."""

import json
import sys
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lexalign.results import Result


def shown_prompt(prompt: Any) -> str:
    """A prompt as one text."""
    return prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False)


def show(result: Result) -> None:
    """Print a finished run."""
    console = Console(file=sys.stdout, highlight=False, soft_wrap=False)
    before, after = result.metrics["before"], result.metrics["after"]
    if after:
        table = Table(title=f"{result.stage} {result.method}: held-out rows", title_justify="left")
        table.add_column("metric")
        table.add_column("before", justify="right")
        table.add_column("after", justify="right")
        table.add_column("95 % interval", justify="right")
        for name, value in after.items():
            mark = " (score)" if name == result.score_name else ""
            low, high = result.intervals[name]
            table.add_row(name + mark, f"{before[name]:.4f}" if name in before else "", f"{value:.4f}", f"{low:.4f} to {high:.4f}")
        console.print(table)
    for sample in result.samples:
        for name, text in sample.items():
            console.print(Text(f"{name:>7}: ", style="bold").append(Text(text, style="")))
        console.print()
    console.print(Text(f"artifact: {result.artifact}"), soft_wrap=True)
