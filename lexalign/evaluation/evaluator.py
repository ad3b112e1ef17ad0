"""The inputs of every measure: the held-out rows with the settings, the results so far, and the reference model."""

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
"""A prompt as text, and the group that is asked."""


@dataclass(kw_only=True)
class Measurement:
    """The results for one model: numbers, and texts to read."""

    rows: dict[str, RowValues] = field(default_factory=dict)
    """The metrics by name, row by row."""
    answers: dict[str, str] = field(default_factory=dict)
    """Greedy answers by prompt (as text). They are generated once and used by several measures."""
    drawn: dict[Question, list[list[int]]] = field(default_factory=dict)
    """Token ids of the responses drawn for each question. They are drawn once and used by several measures."""
    pair_log_probs: list[tuple[float, float]] = field(default_factory=list)
    """Log-probabilities of the chosen and the rejected response of each pair. A model trained from this one is compared with them."""
    row_log_probs: list[float] = field(default_factory=list)
    """Log-probabilities of single completions with a label, for the same purpose."""
    counts: dict[str, int] = field(default_factory=dict)
    """Other counts, by name."""

    @property
    def values(self) -> dict[str, float]:
        """The metrics by name."""
        return {name: row_values.mean() for name, row_values in self.rows.items()}

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """The 95 % intervals of the metrics."""
        return {name: bootstrap_interval(row_values) for name, row_values in self.rows.items()}

    @property
    def n(self) -> dict[str, int]:
        """The number of rows (pairs, prompts) that each metric was measured on."""
        return {name: row_values.n for name, row_values in self.rows.items()}

    def record(self, name: str, values: list[float], weights: list[float] | None = None, **more: Any) -> None:
        """Store a metric row by row."""
        self.rows[name] = RowValues(values=values, weights=weights, **more)


@dataclass(frozen=True, kw_only=True)
class MeasuredReference:
    """The model that the measured one was trained from."""

    measured: Measurement
    """Its own measurement, on the same rows with the same settings."""
    borrowed: Borrowed | None = None
    """Gives the model itself; None if it no longer exists (full training changed it)."""


@dataclass(kw_only=True)
class Evaluator:
    """Measures models on the same held-out rows with the same settings. `known` holds all rows; their texts help to recognize beliefs."""

    encoder: Renderer
    rows: list[Row]
    known: list[Row]
    settings: Evaluate
    max_length: int
    train_rows: list[Row] = field(default_factory=list)
    """The rows trained on. The trivial predictions without a model are made from them."""
    beta: float | None = None
    """Scale of the implicit rewards; None if the method has no preferences (sft)."""
    panel: Panel | None = None
    """The rewards of the method; None if it has none."""
    shared_belief: bool = True
    """Whether both responses follow the belief of the chosen one (gdpo), or each follows its own (dpo)."""

    def __post_init__(self) -> None:
        self.rows = self.rows[: self.settings.limit]

    def has(self, *columns: str) -> bool:
        """Return whether the rows have these columns."""
        return all(column in self.rows[0] for column in columns)

    def answers(self, model: torch.nn.Module, rows: Sequence[Row], max_new_tokens: int) -> list[str]:
        """Generate greedy answers to the prompts of rows."""
        contexts = [self.render_prompt(row) for row in rows]
        return [self.text(ids) for ids in self.generate(model, contexts, max_new_tokens)]

    def render_prompt(self, row: Row) -> list[int]:
        """Return the token ids of a row's prompt; the answer is generated after them."""
        return self.encoder.render_prompt(row["prompt"], **get_row_arguments(row))

    def generate(
        self, model: torch.nn.Module, contexts: Sequence[list[int]], max_new_tokens: int, *, sample: bool = False
    ) -> list[list[int]]:
        """Generate a continuation of each context and return its ids, up to an end token of the encoder or of the model's configuration."""
        ends = self.encoder.end_tokens | read_end_tokens(model)
        if (positions := read_learned_positions(model)) is not None and contexts:
            free_positions = positions - max(map(len, contexts))
            if free_positions < max_new_tokens:
                log.warning("Answers are cut at %d tokens: the model has learned %d positions", max(1, free_positions), positions)
                max_new_tokens = max(1, free_positions)
        tokenizer, size = self.encoder.tokenizer, self.settings.batch_size
        return generate(model, tokenizer, contexts, ends=ends, batch_size=size, max_new_tokens=max_new_tokens, sample=sample)

    def text(self, ids: list[int]) -> str:
        """Return generated ids as text."""
        return self.encoder.decode_answer(ids)

    def contexts(self) -> dict[Question, list[int]]:
        """Return the token ids of each question's prompt, in the order of the rows."""
        first_rows = {get_question_key(row): row for row in reversed(self.rows)}
        questions = dict.fromkeys(get_question_key(row) for row in self.rows)
        return {question: self.render_prompt(first_rows[question]) for question in questions}

    def draw_responses(self, model: torch.nn.Module, measurement: Measurement) -> dict[Question, list[list[int]]]:
        """Draw responses at temperature 1 from the whole distribution, with `evaluate.seed`, so that models use the same random numbers.

        If beliefs are sampled, responses to all questions are drawn, else to the first `evaluate.draw_prompts` questions.
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
        """Return greedy answers to the prompts of rows, by the keys of the rows. Only missing answers are generated."""
        missing_rows = {key: row for key, row in rows.items() if key not in measurement.answers}
        if missing_rows:
            texts = self.answers(model, list(missing_rows.values()), self.settings.max_new_tokens)
            measurement.answers |= dict(zip(missing_rows, texts, strict=True))
        return {key: measurement.answers[key] for key in rows}

    def first_prompts(self, count: int) -> dict[str, Row]:
        """Return the rows with the first `count` different prompts, by their keys."""
        first_rows: dict[str, Row] = {}
        for row in self.rows:
            if "prompt" in row and len(first_rows) < count:
                first_rows.setdefault(get_prompt_key(row), row)
        return first_rows
