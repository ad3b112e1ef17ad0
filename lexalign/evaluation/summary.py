"""Print the summary of a run: metrics before and after, samples, and the folder of the artifact."""

import json
import sys
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lexalign.artifacts.result import Result
from lexalign.config.secrets import clean


def format_prompt(prompt: Any) -> str:
    """Return a prompt as one text."""
    return prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False)


def show_summary(result: Result, names: tuple[str, str] = ("before", "after")) -> None:
    """Print a finished run. `names` are the names of its two columns of metrics."""
    console = Console(file=sys.stdout, highlight=False, soft_wrap=False)
    before, after = result.metrics["before"], result.metrics["after"]
    if after:
        column_names = names if before else names[1:]
        table = Table(title=f"{result.stage} {result.method or ''}".strip() + ": held-out rows", title_justify="left")
        for column in ("metric", "n", *column_names, "95 % interval"):
            table.add_column(column, justify="left" if column == "metric" else "right")
        for name, value in after.items():
            mark = " (score)" if name == result.score_name else ""
            low, high = result.intervals[name]
            before_cell = [f"{before[name]:.4f}" if name in before else ""] if before else []
            table.add_row(clean(name + mark), str(result.n[name]), *before_cell, f"{value:.4f}", f"{low:.4f} to {high:.4f}")
            for prediction, trivial in result.baselines.get(name, {}).items():
                table.add_row(f"  {prediction}", "", *[""] * len(before_cell), f"{trivial:.4f}", "without a model", style="dim")
        console.print(table)
    for warning in result.warnings:
        console.print(Text(f"Warning: {warning}.", style="yellow"), soft_wrap=True)
    for sample in result.samples:
        width = max(map(len, sample))
        for name, text in sample.items():
            console.print(Text(f"{name:>{width}}: ", style="bold").append(Text(clean(text), style="")))
        console.print()
    if result.artifact is not None:
        console.print(Text(clean(f"artifact: {result.artifact}")), soft_wrap=True)


def show_plan_table(facts: dict[str, Any], what: str) -> None:
    """Print the plan of a dry run. `what` says what is not done, for example "nothing is measured"."""
    table = Table(title=f"The plan (dry_run=true: {what})", title_justify="left", show_header=False)
    for name, fact in facts.items():
        table.add_row(name, Text(clean(str(fact))))
    Console(file=sys.stdout, highlight=False).print(table)
