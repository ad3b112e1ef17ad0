"""The interface between a method and the trainer: the spans to score, and the loss of the scores. A method subclasses `Objective`."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal

from torch import Tensor

from lexalign.data.rendering import Renderer
from lexalign.data.rows import Row


@dataclass(kw_only=True)
class Scores:
    """The scores of the policy and the reference for a batch of B rows with R sequences (R = B, or 2B with the chosen ones first).

    Columns are the T-1 predicted tokens. Sums and lengths are taken over response tokens, with the weights of the data if there are any.
    """

    log_probs: Tensor
    """(R, T-1): the log-probability of each scored token, 0 elsewhere."""
    weights: Tensor
    """(R, T-1): the weight of each response token, 0 elsewhere."""
    belief_mask: Tensor
    """(R, T-1): 1 where a token of a belief is predicted."""
    label_mask: Tensor | None = None
    """(R, T-1): true where a token is scored."""
    extras: dict[str, Tensor]
    """The columns of the rows that the objective names in `columns`, (B, ...) each."""
    reference: dict[str, Tensor] = field(default_factory=dict)
    """`sums` (R,), or `actions` and `ends` (R, T-1); empty without a reference."""
    ends: Tensor | None = None
    """(R, T-1): the log-probability of the end token where a response token is predicted (`scores_end`)."""
    logits: Tensor | None = None
    """(B, V): the logits at the last context token (`reads_logits`)."""
    step: dict[str, Tensor] = field(default_factory=dict)
    """The result of `Objective.measure_step` for the whole optimizer step."""

    @cached_property
    def sums(self) -> Tensor:
        """(R,): the weighted sum of the response's log-probabilities."""
        return (self.log_probs * self.weights).sum(1)

    @cached_property
    def lengths(self) -> Tensor:
        """(R,): the sum of the response's token weights, at least 1. Without weights, it is the number of tokens."""
        return self.weights.sum(1).clamp(min=1)

    @cached_property
    def means(self) -> Tensor:
        """(R,): the mean log-probability of a response token."""
        return self.sums / self.lengths

    @cached_property
    def log_ratios(self) -> Tensor:
        """(R,): the log-probability of each response minus that under the reference."""
        return self.sums - self.reference["sums"]


@dataclass(kw_only=True)
class LossOutput:
    """The loss of a batch in parts, so that a step's loss does not depend on how its rows are split into batches.

    The trainer divides the sum of `loss` by the number of rows of the optimizer step, and the sum of `token_loss` by the step's trained
    tokens (of the first sequence of each row), and adds the two.
    """

    loss: Tensor | None = None
    """(B,): the loss of each row."""
    token_loss: Tensor | None = None
    """Any shape: the loss of each token."""
    rewards: Tensor | None = None
    """(R,): the implicit rewards, without gradient."""
    terms: dict[str, Tensor | tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Values to log by name. The mean of the values is logged; a tuple holds a sum and its divisor."""


class Objective:
    """A training method, created with its checked settings and the renderer of its rows. Most methods only define `compute`."""

    rows: ClassVar[Literal["pair", "answer"]] = "pair"
    """pair: a chosen and a rejected response; answer: one response, or a conversation or text."""
    columns: ClassVar[tuple[str, ...]] = ()
    """Columns of a row that `compute` reads in addition to its sequences: numbers, or lists of the same length."""
    shared_belief: ClassVar[bool] = False
    """With beliefs: both responses follow the belief of the chosen response, which is a separate span. If false, each response follows its
    own belief, which is part of the response."""
    scores_belief: ClassVar[bool] = False
    """The belief of the first sequence of each row is scored too."""
    scores_prompts: ClassVar[bool] = False
    """The whole first sequence of each row is scored."""
    scores_end: ClassVar[bool] = False
    """The token that ends a response is scored at each response token."""
    reads_logits: ClassVar[bool] = False
    """The scores include all logits at the last context token."""
    has_details: ClassVar[bool] = True
    """Entropy, mean logits and token accuracy are computed for the log."""
    logs_means: ClassVar[bool] = False
    """The log shows the mean log-probabilities of responses. If false, it shows their sums."""
    reference: ClassVar[Literal["sums", "tokens"] | None] = "sums"
    """The scores of the frozen reference: sums of responses, each token (with `scores_end`), or None."""
    keeps_dropout: ClassVar[bool] = False
    """The model's own dropout stays on. If false, it is switched off, and only the adapter's dropout stays on."""
    couples_rows: ClassVar[bool] = False
    """A row's loss depends on the scores of the other rows of its step. The trainer then scores the whole step first."""

    def __init__(self, method: Any, renderer: Renderer):
        self.method = method
        self.renderer = renderer

    def compute(self, scores: Scores) -> LossOutput:
        """The loss of a batch."""
        raise NotImplementedError

    def setup(self, trainer: Any) -> None:
        """Called once when the trainer is ready. It can add callbacks, or the method's own weights to `trainer.model`."""

    def prepare_rows(self, rows: list[dict[str, Any]], *, step: int, max_length: int) -> list[dict[str, Any]]:
        """Change rendered rows before they are stored; `step` is the number of rows of an optimizer step."""
        return rows

    def list_row_settings(self, step: int) -> dict[str, Any]:
        """The inputs of `prepare_rows` other than the rows. They are part of the cache key."""
        return {}

    def check_rows(self, dataset: Any, rows: list[Row], *, name: str, counts: dict[str, int], max_length: int) -> None:
        """Check the rows of a data set, count unusual rows and log them. `name` is train or held_out. Raises DataError."""

    def measure_step(self, trainer: Any, batches: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Values of a whole optimizer step that each of its batches reads (`Scores.step`). `batches` are those of this process."""
        return {}

    @property
    def start_loss(self) -> float | None:
        """The loss if policy and reference are the same model. Step 0 checks it. None if the value is not fixed."""
        return None

    @property
    def end_token(self) -> int:
        """The id of the token that ends a response (with `scores_end`)."""
        raise NotImplementedError

    reference_temperature: float = 1.0
    """The temperature of the reference's logits when it scores the token that ends a response."""

    is_sequential: ClassVar[bool] = False
    """The rows have the same order and the same batches in every epoch. The seed draws the order once."""
