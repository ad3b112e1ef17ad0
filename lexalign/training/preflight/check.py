"""The preflight of a run, in order: the rows, the step, the artifact, the disk."""

import dataclasses
import logging
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lexalign.config.schema import Experiment
from lexalign.data.rendering import Renderer
from lexalign.data.rows import Splits, get_prompt_key
from lexalign.distributed import collectives
from lexalign.errors import DataError
from lexalign.models.loading import LoadedModel
from lexalign.training import memory
from lexalign.training.preflight import disk_space, memo, prompts, round_trip, rows, sample

log = logging.getLogger(__name__)


def run_preflight(
    trainer: Any,
    experiment: Experiment,
    *,
    loaded: LoadedModel,
    splits: Splits,
    encoder: Renderer,
    out_dir: Path,
    check_start: Callable[[Any, Experiment, memory.TriedStep | None], None] | None,
) -> dict[str, str]:
    """Check everything that can be checked before the first step. Returns the facts, by name.

    Raises errors that a user can correct; each says what to type. `check_start` is the stage's own check of step 0.
    """
    assert experiment.train is not None
    settings = experiment.preflight
    facts: dict[str, str] = {}
    if settings.mode != "skip":
        findings = rows.inspect_rows(trainer, loaded.tokenizer, set(encoder.end_tokens), max_length=experiment.train.max_length)
        facts |= findings.facts()
        problems = [
            *rows.describe_problems(findings, settings, splits.counts, max_length=experiment.train.max_length),
            *prompts.find_ended_prompts(splits.train, encoder, allowed=settings.max_ended_prompts),
            *find_overlap(experiment, splits),
        ]
        if problems:
            raise DataError("\n".join(f"preflight: {problem}" for problem in problems))
        count, is_pair = len(findings.examples) if settings.mode == "only" else 1, bool(splits.train) and "chosen" in splits.train[0]
        show_samples(findings.examples, loaded.tokenizer, count=count, is_pair=is_pair)
    step = memory.settle_gradient_checkpointing(
        trainer, experiment, try_once=partial(try_first_step, experiment) if settings.mode != "skip" else None
    )
    if check_start is not None:
        check_start(trainer, experiment, step)
    if settings.mode != "skip":
        sizes, ids = memory.ModelSizes.of(trainer.model), get_first_ids(findings, splits, encoder)
        facts["disk"] = collectives.run_on_main(lambda: disk_space.check_space(experiment, sizes, out_dir))
        if settings.round_trip and (reason := collectives.run_on_main(lambda: round_trip.explain_no_room(trainer, experiment))):
            facts["artifact"] = reason
        elif settings.round_trip:
            fact, is_reused = memo.remember(
                experiment,
                "artifact",
                {**memo.key_artifact_trial(experiment), "base": loaded.base},
                lambda: collectives.run_on_main(lambda: round_trip.check_round_trip(trainer, loaded, experiment, out_dir, ids)),
            )
            facts["artifact"] = f"{fact}, when a run alike in that tried it" if is_reused else fact
        log.info("Preflight: %s", "; ".join(f"{name} {fact}" for name, fact in facts.items()))
    return facts


def try_first_step(experiment: Experiment, find: Callable[[], memory.TriedStep]) -> memory.TriedStep:
    """The trial step. It is reused if an earlier run with the same inputs tried it."""
    values, is_reused = memo.remember(experiment, "step", memo.key_step_trial(experiment), lambda: dataclasses.asdict(find()))
    if is_reused:
        log.info("Tried: by a run alike, forward and backward in %.1f s; not again", values["seconds"])
    return memory.TriedStep(**values)


def get_first_ids(findings: rows.RowFindings, splits: Splits, encoder: Renderer) -> list[int]:
    """The tokens of the first training row."""
    return findings.examples[0][0].ids if findings.examples else encoder.render_row(splits.train[0])[0].ids


def find_overlap(experiment: Experiment, splits: Splits) -> list[str]:
    """The problem as a list of one text, if too many held-out prompts are also training prompts; else an empty list."""
    held_out = {get_prompt_key(row) for row in splits.held_out}
    overlap = [prompt for prompt in dict.fromkeys(map(get_prompt_key, splits.train)) if prompt in held_out]
    share = len(overlap) / max(1, len(held_out))
    if share <= experiment.preflight.max_overlap:
        return []
    first = "; ".join(repr(prompt[: rows.SHOWN]) for prompt in overlap[: rows.NAMED])
    return [
        f"{len(overlap):,} of {len(held_out):,} held-out prompts are training prompts too, so the evaluation would flatter the model; "
        f"take them out, or allow it with preflight.max_overlap={rows.round_up_share(share)}: {first}"
    ]


def show_samples(examples: list[list[Any]], tokenizer: Any, *, count: int, is_pair: bool) -> None:
    """Print the first rows on the terminal, with the trained tokens in colour."""
    console = Console(file=sys.stdout, highlight=False)
    if examples:
        console.print("What is trained (bold green) of the first rows:" if count > 1 else "What is trained (bold green) of the first row:")
    for row in examples[:count]:
        console.print(sample.colour_row(row, tokenizer, is_pair=is_pair))


def show_facts(facts: dict[str, str]) -> None:
    """Print the facts as a table (`preflight=only`)."""
    table = Table(title="Preflight (nothing was trained)", title_justify="left", show_header=False)
    for name, fact in facts.items():
        table.add_row(name, fact)
    Console(file=sys.stdout, highlight=False).print(table)
