"""The progress bar, `metrics.jsonl` and the tracker during training."""

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback

from lexalign.artifacts import files
from lexalign.artifacts.terminal import has_progress_bars

LINE_SECONDS = 30.0
"""Without a terminal, seconds after which a step prints a line of progress."""


class ProgressCallback(TrainerCallback):
    """Writes every logged number to `metrics.jsonl` and to the tracker. A progress bar shows the loss and the tokens a second.

    Without a terminal, a plain line shows the same every `train.log_steps`, or after half a minute without a line.
    """

    def __init__(self, out_dir: Path | None, tracker: Any, *, title: str):
        """`out_dir` is the run's folder. It is None in the processes that do not write."""
        self.path = out_dir / "metrics.jsonl" if out_dir else None
        self.tracker = tracker
        self.title = title
        self.bar: tqdm | None = None
        self.seen: tuple[float, float] | None = None
        self.prints_lines = False
        self.last_line = 0.0
        self.start: tuple[float, int] = (0.0, 0)
        """Time and step at which this part of the run began."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        has_bar = self.path is not None and has_progress_bars()
        self.prints_lines = self.path is not None and not has_bar
        self.last_line = time.monotonic()
        self.start = (self.last_line, state.global_step)
        self.bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            desc=self.title,
            unit="step",
            file=sys.stderr,
            dynamic_ncols=True,
            disable=not has_bar,
        )
        self.seen = None
        self.forget_after(state.global_step)
        self.print_line(state, "")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        assert self.bar is not None
        self.bar.update(state.global_step - self.bar.n)
        if time.monotonic() - self.last_line > LINE_SECONDS:
            self.print_line(state, "")

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        numbers = {name: value for name, value in (logs or {}).items() if isinstance(value, (int, float)) and math.isfinite(value)}
        not_finite = sorted(set(logs or {}) - set(numbers))
        speed = self.tokens_a_second(numbers.get("num_tokens"))
        if speed is not None:
            numbers["tokens_per_second"] = speed
        if self.path is None:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": state.global_step, **numbers, **({"not_finite": not_finite} if not_finite else {})}) + "\n")
        self.tracker.log(state.global_step, name_metrics(numbers))
        if self.bar is not None and "loss" in numbers:
            words = f"loss {numbers['loss']:.4f}" + (f", {speed:,.0f} tokens/s" if speed is not None else "")
            self.bar.set_postfix_str(words)
            self.print_line(state, words)

    def print_line(self, state: Any, words: str) -> None:
        """Print a line of progress on stderr: the step, `words`, the mean speed, and the time that the other steps take at this speed."""
        if not self.prints_lines:
            return
        self.last_line = time.monotonic()
        seconds, steps = self.last_line - self.start[0], state.global_step - self.start[1]
        parts = [f"{self.title}: step {state.global_step}/{state.max_steps}", words]
        if steps and seconds > 0:
            rest_time = tqdm.format_interval(seconds / steps * (state.max_steps - state.global_step))
            parts += [f"{steps / seconds:.2f} step/s", f"{rest_time} left"]
        print(", ".join(filter(None, parts)), file=sys.stderr)

    def forget_after(self, step: int) -> None:
        """Remove the lines of later steps, which this part of the run logs again, and incomplete lines of a killed part."""
        if self.path is None or not self.path.is_file():
            return
        lines, earlier_steps = [], []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if entry["step"] <= step and "train_runtime" not in entry:
                lines.append(line + "\n")
                numbers = {name: value for name, value in entry.items() if name not in ("step", "not_finite")}
                earlier_steps.append((entry["step"], name_metrics(numbers)))
        files.write_text(self.path, "".join(lines))
        self.tracker.log_earlier(earlier_steps)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.close()

    def tokens_a_second(self, tokens: float | None) -> float | None:
        """The tokens a second since the last log; None at the first log."""
        if tokens is None:
            return None
        now, last = (time.monotonic(), tokens), self.seen
        self.seen = now
        return (tokens - last[1]) / (now[0] - last[0]) if last and now[0] > last[0] else None


def name_metrics(numbers: dict[str, float]) -> dict[str, float]:
    """The metrics of a step with the tracker's names. A name without a group gets the prefix `train/`."""
    return {name if "/" in name else f"train/{name}": value for name, value in numbers.items()}
