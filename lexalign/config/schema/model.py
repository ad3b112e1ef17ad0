"""The model a run starts from, and what of it is trained."""

from dataclasses import dataclass
from typing import Annotated, Literal

from lexalign.config.parsing import Range, TypedOnly
from lexalign.config.schema.ranges import Count, Positive


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """Which weights are trained."""

    kind: Literal["lora", "qlora", "full"]
    """lora, qlora (lora on a quantized base) or full (every weight, no adapter)."""
    rank: Count | None
    """Rank of the update of each adapted layer; null for full."""
    alpha: Annotated[float, Positive] | None
    """The update is scaled by alpha / rank."""
    dropout: Annotated[float, Range(least=0, below=1)] | None
    """Share of the adapter's inputs dropped while training."""
    target_modules: list[str] | Literal["auto"] | None
    """Names of the layers that get an adapter, or ends of their full names; auto = every linear layer that text passes through, the weights
    of experts too, but neither the output head nor routers."""
    bits: int | None
    """Quantization of the frozen base (qlora): 4 (nf4, double quantization) or 8 (int8)."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """The model the run starts from: a path, or the artifact of a parent experiment."""

    path: str | None
    """Hub id, folder, `.gguf` file, or the folder of an earlier run. `embedded:tiny` is the model inside this package."""
    revision: str | None
    """Branch, tag or commit on the hub."""
    parent: str | None
    """An experiment whose artifact is the model; it runs first unless a finished artifact of the same content exists."""
    parent_overrides: list[str]
    """Overrides for that experiment, as one would type them."""
    tokenizer: str | None
    """Where the tokenizer comes from when not from the model (the base model of weights saved without one)."""
    tokenizer_revision: str | None
    """Branch, tag or commit of the tokenizer on the hub."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"]
    """Type of the loaded weights; auto = bfloat16 where `hardware.precision` is bf16 and only an adapter is trained, else float32."""
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2", "flex_attention"]
    """Implementation of attention; auto = what transformers chooses."""
    trust_remote_code: Annotated[bool, TypedOnly("it runs code of a repository")]
    """Run Python code that comes with the model; asks for a 40-hex revision."""
