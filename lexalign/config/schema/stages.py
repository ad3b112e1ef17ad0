"""What a run does; the stages that train nothing."""

from dataclasses import dataclass
from typing import Annotated, Literal

from lexalign.config.parsing import MayBeEmpty, Range, TypedOnly
from lexalign.config.schema.ranges import Count, NotNegative, Positive


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What the run does."""

    name: str
    """download, sft, align, evaluate, export or chat."""
    target: str
    """Dotted path of the function `(experiment, out_dir, tracker) -> Result` that does it."""


@dataclass(frozen=True, kw_only=True)
class Download:
    """`stage=download` fetches what `model` and `data` name."""

    only: Literal["all", "models", "datasets"]
    """Fetch only models or only data sets of what is named."""
    include: list[str]
    """File patterns to fetch; empty = all."""
    exclude: list[str]
    """File patterns to leave out."""
    output_dir: Annotated[str | None, TypedOnly("it names a folder that is written to")]
    """Folder for the files; null = the hub's own cache, where sft and align find them."""
    workers: Count
    """Files fetched at once."""
    retries: Annotated[int, NotNegative]
    """How often a busy or broken answer is asked again, with growing pauses."""


@dataclass(frozen=True, kw_only=True)
class Export:
    """`stage=export` makes a model that stands alone of what a run left: its adapter merged into the base."""

    rows: Count
    """At most so many held-out rows on which the exported model is compared with the one that was trained."""
    max_kl: Annotated[float, Positive]
    """KL(trained ‖ exported) over whole next-token distributions, in nats a token, above which the export is refused."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"]
    """Type of the exported weights; auto = the base's own on the disk."""
    format: Literal["safetensors", "gguf"]
    """How the weights are written; gguf is refused with the llama.cpp command that makes it of the exported folder."""
    push: Annotated[str | None, TypedOnly("it names a repository that the model is sent to")]
    """Repository on the hub (owner/name) that the exported folder is uploaded to; null = none. The token comes from HF_TOKEN or
    `hf auth login`."""
    private: Annotated[bool, TypedOnly("it can make an uploaded model public")]
    """Whether that repository is made private."""


@dataclass(frozen=True, kw_only=True)
class Chat:
    """`stage=chat` talks to a model on the terminal."""

    against: str | None
    """A second model that answers everything too: reference = the one the model was trained from; or a path as `model.path` takes it."""
    temperature: Annotated[float, NotNegative]
    """Of the answers: above 1 they are more varied, below 1 less; 0 = always the likeliest token."""
    max_new_tokens: Count
    """Longest answer that is generated."""
    seed: Annotated[int, Range(least=0, most=2**32 - 1)]
    """Of the answers, the same for both models."""
    system: Annotated[str, MayBeEmpty()] | None
    """A system message before the conversation; null = the one the model was trained with, where there was one."""
