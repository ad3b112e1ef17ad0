"""What a method is to the trainer: which spans it scores, and how scores become a loss. A method subclasses `Objective`."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal

from torch import Tensor

from lexalign.data.rendering import Renderer
from lexalign.data.rows import Row


@dataclass(kw_only=True)
class Scores:
    """What the model gives a batch of B rows as R sequences (R = B, or 2B with the chosen ones first), and what the reference gave it.

    Columns are T-1 predicted tokens. Sums and lengths are of response tokens, weighted where the data weigh them.
    """

    log_probs: Tensor
    """(R, T-1): log-probability of each scored token, 0 elsewhere."""
    weights: Tensor
    """(R, T-1): weight of each response token, 0 elsewhere."""
    belief_mask: Tensor
    """(R, T-1): 1 where a belief's token is predicted."""
    label_mask: Tensor | None = None
    """(R, T-1): where a token is scored."""
    extras: dict[str, Tensor]
    """The columns of the rows that the objective names in `columns`, (B, ...) each."""
    reference: dict[str, Tensor] = field(default_factory=dict)
    """`sums` (R,), or `actions` and `ends` (R, T-1); empty without a reference."""
    ends: Tensor | None = None
    """(R, T-1): log-probability of the token that ends a response, where a response token is predicted (`scores_end`)."""
    logits: Tensor | None = None
    """(B, V): the logits at the last context token (`reads_logits`)."""
    step: dict[str, Tensor] = field(default_factory=dict)
    """What `Objective.measure_step` found of the whole optimizer step."""

    @cached_property
    def sums(self) -> Tensor:
        """(R,): weighted sum of the response's log-probabilities."""
        return (self.log_probs * self.weights).sum(1)

    @cached_property
    def lengths(self) -> Tensor:
        """(R,): weight of the response's tokens, their number where nothing is weighted; at least 1."""
        return self.weights.sum(1).clamp(min=1)

    @cached_property
    def means(self) -> Tensor:
        """(R,): mean log-probability of a response token."""
        return self.sums / self.lengths

    @cached_property
    def log_ratios(self) -> Tensor:
        """(R,): log-probability of each response less the reference's."""
        return self.sums - self.reference["sums"]


@dataclass(kw_only=True)
class LossOutput:
    """The loss of a batch in parts, so that a step's loss is the same however its rows are split into batches.

    The trainer divides the sum of `loss` by the number of rows of the optimizer step, and the sum of `token_loss` by the step's trained
    tokens (of the first sequence of each row), and adds the two.
    """

    loss: Tensor | None = None
    """(B,): loss of each row."""
    token_loss: Tensor | None = None
    """Any shape: loss of tokens."""
    rewards: Tensor | None = None
    """(R,): implicit rewards, without gradient."""
    terms: dict[str, Tensor | tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Numbers to log by name, the mean of each; or a sum and what it is divided by."""


class Objective:
    """A training method. Made with its checked settings and the renderer of its rows; `compute` is all that most methods write."""

    rows: ClassVar[Literal["pair", "answer"]] = "pair"
    """pair: chosen and rejected; answer: one response, or a conversation or text."""
    columns: ClassVar[tuple[str, ...]] = ()
    """Columns of a row that `compute` reads beside its sequences: numbers, or lists of one length."""
    shared_belief: ClassVar[bool] = False
    """With beliefs: both responses stand behind the chosen's belief, which is a span of its own; else each behind its own belief, which
    belongs to the response."""
    scores_belief: ClassVar[bool] = False
    """The belief of the first sequence of each row is scored too."""
    scores_prompts: ClassVar[bool] = False
    """The whole first sequence of each row is scored."""
    scores_end: ClassVar[bool] = False
    """The token that ends a response is scored at each response token."""
    reads_logits: ClassVar[bool] = False
    """The whole logits at the last context token are given."""
    has_details: ClassVar[bool] = True
    """Entropy, mean logits and token accuracy are computed for the log."""
    logs_means: ClassVar[bool] = False
    """The log shows mean log-probabilities of responses; else their sums."""
    reference: ClassVar[Literal["sums", "tokens"] | None] = "sums"
    """What the frozen reference scores: sums of responses, each token (with `scores_end`), or nothing."""
    keeps_dropout: ClassVar[bool] = False
    """The model's own dropout is left on; else it is switched off, and the adapter's only stays."""
    couples_rows: ClassVar[bool] = False
    """A row's loss depends on the scores of the other rows of its step: the trainer scores the whole step before it."""

    def __init__(self, method: Any, renderer: Renderer):
        self.method = method
        self.renderer = renderer

    def compute(self, scores: Scores) -> LossOutput:
        """The loss of a batch."""
        raise NotImplementedError

    def setup(self, trainer: Any) -> None:
        """Called once when the trainer stands: to add callbacks, or weights of the method's own to `trainer.model`."""

    def prepare_rows(self, rows: list[dict[str, Any]], *, step: int, max_length: int) -> list[dict[str, Any]]:
        """Change rendered rows before they are stored; `step` is the number of rows of an optimizer step."""
        return rows

    def list_row_settings(self, step: int) -> dict[str, Any]:
        """What `prepare_rows` depends on beside the rows."""
        return {}

    def check_rows(self, dataset: Any, rows: list[Row], *, name: str, counts: dict[str, int], max_length: int) -> None:
        """Count and say what is peculiar about the rows of a data set; `name` is train or held_out. Raises DataError."""

    def measure_step(self, trainer: Any, batches: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Numbers of a whole optimizer step that each of its batches reads (`Scores.step`); `batches` are this process's."""
        return {}

    @property
    def start_loss(self) -> float | None:
        """The loss where policy and reference are one model, which step 0 checks; None where it is not known beforehand."""
        return None

    @property
    def end_token(self) -> int:
        """The id of the token that ends a response (with `scores_end`)."""
        raise NotImplementedError

    reference_temperature: float = 1.0
    """What the reference's logits are divided by where it scores the token that ends a response."""

    is_sequential: ClassVar[bool] = False
    """Rows are trained on in one order, which the seed draws once, in batches that stay as they are."""
