"""What every measure stands on: the held-out rows with the settings, what was found so far, and what the model is held against."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from lexalign.config.schema import Evaluate
from lexalign.data.rendering import Renderer, get_row_arguments
from lexalign.data.rows import Row, get_prompt_key, get_question_key
from lexalign.evaluation.intervals import RowValues, bootstrap_interval
from lexalign.evaluation.scoring import Borrowed, generate, get_device
from lexalign.models.generation import read_end_tokens
from lexalign.models.limits import read_learned_positions
from lexalign.rewards.panel import Panel

log = logging.getLogger(__name__)
Question = tuple[str, str]
"""A prompt as text, and the group it is asked of."""


@dataclass(kw_only=True)
class Measurement:
    """What was found of one model: numbers, and texts to read."""

    rows: dict[str, RowValues] = field(default_factory=dict)
    """The metrics by name, row by row."""
    answers: dict[str, str] = field(default_factory=dict)
    """Greedy answers by prompt (as text), made once and read by several measures."""
    drawn: dict[Question, list[list[int]]] = field(default_factory=dict)
    """Ids of the responses drawn for each question, made once and read by several measures."""
    pair_log_probs: list[tuple[float, float]] = field(default_factory=list)
    """Of the chosen and the rejected response of each pair: what a model trained from this one is held against."""
    row_log_probs: list[float] = field(default_factory=list)
    """The same of single completions with a label."""
    counts: dict[str, int] = field(default_factory=dict)
    """What else was counted on the way."""

    @property
    def values(self) -> dict[str, float]:
        """The metrics by name."""
        return {name: row_values.mean() for name, row_values in self.rows.items()}

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """Their 95 % intervals."""
        return {name: bootstrap_interval(row_values) for name, row_values in self.rows.items()}

    @property
    def n(self) -> dict[str, int]:
        """The number of rows (pairs, prompts) each was measured on."""
        return {name: row_values.n for name, row_values in self.rows.items()}

    def record(self, name: str, values: list[float], weights: list[float] | None = None, **more: Any) -> None:
        """Keep a metric row by row."""
        self.rows[name] = RowValues(values=values, weights=weights, **more)


@dataclass(frozen=True, kw_only=True)
class MeasuredReference:
    """The model that the measured one was trained from."""

    measured: Measurement
    """Its own measurement, on the same rows with the same settings."""
    borrowed: Borrowed | None = None
    """Gives the model itself; None where it is no longer there (full training changed it)."""


@dataclass(kw_only=True)
class Evaluator:
    """Measures models on the same held-out rows with the same settings; `known` are all rows, whose wordings tell beliefs apart."""

    encoder: Renderer
    rows: list[Row]
    known: list[Row]
    settings: Evaluate
    max_length: int
    train_rows: list[Row] = field(default_factory=list)
    """The rows trained on: what predicts without a model is made of them."""
    beta: float | None = None
    """Scale of the implicit rewards; None where nothing is preferred (sft)."""
    panel: Panel | None = None
    """The rewards of a method that has some."""
    shared_belief: bool = True
    """Both responses behind the chosen's belief (gdpo) or each behind its own (dpo)."""

    def __post_init__(self) -> None:
        self.rows = self.rows[: self.settings.limit]

    def has(self, *columns: str) -> bool:
        """Whether the rows have these columns."""
        return all(column in self.rows[0] for column in columns)

    def answers(self, model: torch.nn.Module, rows: Sequence[Row], max_new_tokens: int) -> list[str]:
        """Greedy answers to the prompts of rows."""
        contexts = [self.render_prompt(row) for row in rows]
        return [self.text(ids) for ids in self.generate(model, contexts, max_new_tokens)]

    def render_prompt(self, row: Row) -> list[int]:
        """Ids of what the answer to a row's prompt is asked behind."""
        return self.encoder.render_prompt(row["prompt"], **get_row_arguments(row))

    def generate(
        self, model: torch.nn.Module, contexts: Sequence[list[int]], max_new_tokens: int, *, sample: bool = False
    ) -> list[list[int]]:
        """Ids of continuations, each up to where an answer ends; the generation config of this model names further ends."""
        ends = self.encoder.end_tokens | read_end_tokens(model)
        if (positions := read_learned_positions(model)) is not None and contexts:
            free_positions = positions - max(map(len, contexts))
            if free_positions < max_new_tokens:
                log.warning("Answers are cut at %d tokens: the model has learned %d positions", max(1, free_positions), positions)
                max_new_tokens = max(1, free_positions)
        tokenizer, size = self.encoder.tokenizer, self.settings.batch_size
        return generate(model, tokenizer, contexts, ends=ends, batch_size=size, max_new_tokens=max_new_tokens, sample=sample)

    def text(self, ids: list[int]) -> str:
        """Generated ids as text."""
        return self.encoder.decode_answer(ids)

    def contexts(self) -> dict[Question, list[int]]:
        """The ids of each question's prompt, in the order of the rows."""
        first_rows = {get_question_key(row): row for row in reversed(self.rows)}
        questions = dict.fromkeys(get_question_key(row) for row in self.rows)
        return {question: self.render_prompt(first_rows[question]) for question in questions}

    def draw_responses(self, model: torch.nn.Module, measurement: Measurement) -> dict[Question, list[list[int]]]:
        """Responses drawn at temperature 1 from the whole distribution, by `evaluate.seed`, so that two models are drawn alike.

        Beliefs ask for all questions, the other measures for `evaluate.draw_prompts` of them.
        """
        if not measurement.drawn:
            settings = self.settings
            belief_samples = settings.belief_samples if self.has("belief") else 0
            contexts = self.contexts()
            questions = list(contexts) if belief_samples else list(contexts)[: settings.draw_prompts]
            count = max(belief_samples, settings.draws)
            device = get_device(model)
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                torch.manual_seed(settings.seed)
                repeated_contexts = [contexts[question] for question in questions for _ in range(count)]
                ids = self.generate(model, repeated_contexts, settings.max_new_tokens, sample=True)
            measurement.drawn = {question: ids[at * count : (at + 1) * count] for at, question in enumerate(questions)}
        return measurement.drawn

    def greedy(self, model: torch.nn.Module, measurement: Measurement, rows: dict[str, Row]) -> dict[str, str]:
        """Greedy answers to the prompts of rows by their keys; those already made are not made again."""
        missing_rows = {key: row for key, row in rows.items() if key not in measurement.answers}
        if missing_rows:
            texts = self.answers(model, list(missing_rows.values()), self.settings.max_new_tokens)
            measurement.answers |= dict(zip(missing_rows, texts, strict=True))
        return {key: measurement.answers[key] for key in rows}

    def first_prompts(self, count: int) -> dict[str, Row]:
        """Rows with the first few different prompts, by their keys."""
        first_rows: dict[str, Row] = {}
        for row in self.rows:
            if "prompt" in row and len(first_rows) < count:
                first_rows.setdefault(get_prompt_key(row), row)
        return first_rows
