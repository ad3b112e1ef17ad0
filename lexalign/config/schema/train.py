"""The training loop, and what is looked at before it."""

from dataclasses import dataclass
from typing import Annotated, Literal

from lexalign.config.parsing import Range
from lexalign.config.schema.ranges import AnyShare, Count, NotNegative, Positive


@dataclass(frozen=True, kw_only=True)
class Train:
    """The training loop."""

    learning_rate: Annotated[float, Positive]
    """Peak of the schedule."""
    scheduler: Literal["linear", "cosine", "constant", "constant_with_warmup"]
    """Course of the learning rate after the warm-up."""
    optimizer: Literal["adamw_torch", "adamw_8bit", "rmsprop", "adafactor", "sgd"]
    """adamw_8bit (bitsandbytes) keeps its state in 8 bits."""
    batch_size: Count
    """Rows (pairs, for align) of a batch; several processes share them out."""
    gradient_accumulation_steps: Count
    """Batches before one optimizer step; a step's loss and gradient do not depend on how its rows are split into batches."""
    epochs: Annotated[float, Positive]
    """Times every row is seen; may be a fraction."""
    max_steps: Count | None
    """Stop after so many optimizer steps, whatever `epochs` says."""
    warmup_steps: Annotated[float, NotNegative]
    """Steps of warm-up; below 1 it is a share of all steps."""
    weight_decay: Annotated[float, NotNegative]
    """Pull of the weights towards zero."""
    max_grad_norm: Annotated[float, Positive]
    """Gradients longer than this are shortened to it."""
    max_length: Annotated[int, Range(least=8)]
    """Longest row in tokens, prompt and response together; longer rows are cut at the end, and counted."""
    packing: bool
    """Put several short rows into one (sft)."""
    save_steps: Count | None
    """Steps between checkpoints; null = one at the end of each epoch."""
    eval_steps: Count | None
    """Steps between evaluations of the held-out loss; null = none while training."""
    log_steps: Count
    """Optimizer steps between two logged lines."""
    keep_checkpoints: Count
    """Newest checkpoints kept."""
    stop_after: Annotated[float, Positive] | None
    """Minutes since the command began after which the run saves and stops with exit code 143 (before a scheduler kills it)."""
    divergence: Literal["stop", "warn", "ignore"]
    """What to do where the loss stays above `divergence_factor` times its running median for `divergence_steps` steps."""
    divergence_factor: Annotated[float, Range(above=1)]
    """How far above the median of the last 100 steps a loss must be."""
    divergence_steps: Count
    """For how many steps in a row."""
    fast_path: bool
    """Compute each prompt once, no padding, and only response tokens at the LM head; the same losses and gradients as without."""
    group_by_length: bool
    """Batches of rows of near-equal length, drawn by seed; false = batches in an order that the seed draws."""
    max_tokens: Count | None
    """Fill batches up to so many tokens instead of `batch_size` rows; a prompt that the responses share counts once. Each row counts once
    in its step, however many rows its batch has."""
    gradient_checkpointing: bool | Literal["auto"]
    """Recompute activations in the backward pass: less memory, more time; auto = where the largest batch does not fit without."""


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """What is looked at before the first step, and which share of the training rows may be wrong before the run is refused."""

    mode: Literal["check", "only", "skip"]
    """check = look, then train; only = look and stop; skip = check nothing but the reference and the memory."""
    max_truncated: AnyShare
    """Rows longer than `train.max_length`."""
    max_untrained: AnyShare
    """Rows without a token that is trained."""
    max_without_ending: AnyShare
    """Rows that are not cut and train no token that ends a response."""
    max_wrong_bos: AnyShare
    """Rows that begin with two BOS, or with none where the tokenizer puts one."""
    max_ended_prompts: AnyShare
    """Rows whose prompt holds, in its own text, a token that ends an answer, or a BOS."""
    max_equal_pairs: AnyShare
    """Pairs whose chosen and rejected sequences are equal, after cutting too."""
    max_overlap: AnyShare
    """Held-out prompts that are training prompts (a share of the held-out ones)."""
    round_trip: bool
    """Save the model, load it again and compare its logits."""
