"""What is measured."""

from dataclasses import dataclass
from typing import Annotated, Literal

from lexalign.config.parsing import Range, TypedOnly
from lexalign.config.schema.ranges import Count, NotNegative, Positive


@dataclass(frozen=True, kw_only=True)
class Judge:
    """A model behind an OpenAI-compatible endpoint that compares answers."""

    url: Annotated[str | None, TypedOnly("it names an address that rows are sent to")]
    """Where it is, up to /chat/completions: http://localhost:8000/v1; null = nothing is judged."""
    model: str | None
    """Its name there."""
    key_env: Annotated[str | None, TypedOnly("it names a variable of the environment whose value is sent")]
    """Name of the environment variable that holds its key; null = none is sent."""
    prompts: Count
    """At most so many held-out prompts, each asked about twice."""
    against: Literal["reference", "data"]
    """Whose answers the model's are held against: the reference's, or the data's own (the completion, else the chosen response)."""
    timeout: Annotated[float, Positive]
    """Seconds to wait for one answer."""
    retries: Annotated[int, NotNegative]
    """How often a busy or broken answer is asked again, with growing pauses."""
    workers: Count
    """Questions asked at once."""


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """The measurement before and after training, and the whole of stage=evaluate."""

    enabled: bool
    """Measure at all; `evaluate=false` alone says the same."""
    limit: Count | None
    """At most so many held-out rows."""
    batch_size: Count
    """Rows a device scores or answers at once."""
    max_new_tokens: Annotated[int, Range(least=1)]
    """Longest answer that is generated."""
    strip_reasoning: bool
    """Compare answers without the reasoning in front of them (`<think>…</think>`): exact_match."""
    samples: Annotated[int, NotNegative]
    """Generated samples shown and recorded."""
    draws: Annotated[int, NotNegative]
    """Responses drawn for a prompt, at temperature 1, to measure KL to the reference, length and variety; 0 = do not."""
    draw_prompts: Count
    """At most so many prompts are drawn for."""
    belief_samples: Annotated[int, NotNegative]
    """Responses drawn for each held-out prompt, at temperature 1, to measure beliefs (gdpo)."""
    seed: Annotated[int, Range(least=0, most=2**32 - 1)]
    """Of the drawn responses; one for all runs, so that two models are drawn alike."""
    reference: str | None
    """Model that stage=evaluate holds the measured one against: auto = the one it was trained from, where it is a run of ours; a path as
    `model.path` takes it; null = none."""
    beta: Annotated[float, Positive] | None
    """Scale of the implicit rewards in stage=evaluate; null = the one the model was trained with, 1 for a model trained with none."""
    max_length: Annotated[int, Range(least=8)] | None
    """Longest row in tokens in stage=evaluate; null = the one the model was trained with, else as many as it has positions."""
    judge: Judge
    """Who compares the answers; nobody unless its url is named."""
    tasks: list[str]
    """Tasks of EleutherAI's lm-eval to run as well (pip install -e '.[lm-eval]')."""
    task_dir: Annotated[str | None, TypedOnly("it names code that is run")]
    """Folder with YAML files of tasks of your own for lm-eval."""
