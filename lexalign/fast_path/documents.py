"""Several documents in one row: the arguments that mark where each begins, and a check that the layers of a model use them."""

import inspect
from typing import Any

import torch
from torch import Tensor

from lexalign.errors import ConfigError
from lexalign.fast_path import trial
from lexalign.fast_path.logit_map import compute_own_logits, is_whole

LENGTHS = (12, 21, 9)
"""Numbers of tokens of the documents in the trial."""
REASON_KEY = "_documents_reason"
KNOWN_TO_BLEED = {"bloom", "falcon", "falcon_mamba", "gpt_oss", "jamba", "mamba", "mamba2", "mpt", "opt", "rwkv", "xlstm"}
"""Families that are refused without a trial if the weights are not whole in this process."""


def hold_documents(position_ids: Tensor | None, attention_mask: Tensor | None) -> bool:
    """Whether the rows of a batch hold several documents: there is no mask, and positions begin again at 0."""
    return attention_mask is None and position_ids is not None and bool((position_ids[:, 1:] == 0).any())


def make_boundaries(position_ids: Tensor) -> dict[str, Any]:
    """The arguments with which layers separate the documents of one row (1, N).

    Convolutions and state spaces read `seq_idx`; linear attention and attention with unequal lengths read `cu_seq_lens_q` and the others.
    """
    starts = torch.nonzero(position_ids[0] == 0)[:, 0]
    ends = torch.cat((starts, starts.new_tensor([position_ids.shape[1]]))).to(torch.int32)
    longest = int((ends[1:] - ends[:-1]).max())
    numbers = (position_ids == 0).cumsum(1).to(torch.int32) - 1
    return {"seq_idx": numbers, "cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}


def keep_accepted(function: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments that a function accepts, by name or through `**kwargs`."""
    parameters = inspect.signature(function).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return arguments
    return {name: value for name, value in arguments.items() if name in parameters}


def refuse_bleeding(model: Any) -> None:
    """Raise ConfigError if a model without a layout does not separate the documents of a row. Each model is tried only once."""
    if REASON_KEY not in vars(model):
        vars(model)[REASON_KEY] = find_bleeding(model)
    reason = vars(model)[REASON_KEY]
    if reason is not None:
        kind = model.config.get_text_config().model_type
        raise ConfigError(f"train.packing=true: {kind} does not keep the documents of a row apart: {reason}; type train.packing=false")


@torch.no_grad()
def find_bleeding(model: Any) -> str | None:
    """The reason why documents in one row get other numbers than each document alone; None if the numbers agree."""
    if not is_whole(model):
        return "its layers do not read where a document begins" if model.config.get_text_config().model_type in KNOWN_TO_BLEED else None
    rows = [row.to(model.get_input_embeddings().weight.device) for row in trial.draw_rows(model, LENGTHS)]
    was_training = model.training
    model.eval()
    with trial.widen(model):
        try:
            return compare_documents(model, rows)
        except trial.FAILURES as error:
            return trial.describe_failure(error)
        finally:
            model.train(was_training)


def compare_documents(model: Any, rows: list[Tensor]) -> str | None:
    """The difference between the documents' log-probabilities in one row and alone, as a reason; None if it is small enough."""
    scores_alone = torch.cat([trial.score_next(compute_own_logits(model, input_ids=row[None]).logits[0], row) for row in rows])
    position_ids = torch.cat([torch.arange(len(row), device=row.device) for row in rows])[None]
    boundaries = keep_accepted(type(model.base_model).forward, {"position_ids": position_ids, **make_boundaries(position_ids)})
    states = compute_own_logits(model, input_ids=torch.cat(rows)[None], **boundaries).logits[0]
    scores_together = [trial.score_next(part, row) for part, row in zip(states.split(list(LENGTHS)), rows, strict=True)]
    difference = float((torch.cat(scores_together) - scores_alone).abs().max())
    tolerance = trial.get_allowed(model)
    return None if difference <= tolerance else f"a token's log-probability differs by {difference:.2g} from the document alone"
