"""Several documents in one row: what tells a model's layers where each begins, and whether they heed it."""

import inspect
from typing import Any

import torch
from torch import Tensor

from lexalign.errors import ConfigError
from lexalign.fast_path import trial
from lexalign.fast_path.logit_map import compute_own_logits, is_whole

LENGTHS = (12, 21, 9)
"""Tokens of the documents of the trial."""
REASON_KEY = "_documents_reason"
KNOWN_TO_BLEED = {"bloom", "falcon", "falcon_mamba", "gpt_oss", "jamba", "mamba", "mamba2", "mpt", "opt", "rwkv", "xlstm"}
"""Families that are refused untried where the weights are not whole in this process."""


def hold_documents(position_ids: Tensor | None, attention_mask: Tensor | None) -> bool:
    """Whether a batch's rows hold several documents each: no mask, and positions that begin again."""
    return attention_mask is None and position_ids is not None and bool((position_ids[:, 1:] == 0).any())


def make_boundaries(position_ids: Tensor) -> dict[str, Any]:
    """What layers need to keep the documents of one row (1, N) apart: convolutions and state spaces read `seq_idx`, linear attention and
    attention with unequal lengths `cu_seq_lens`."""
    starts = torch.nonzero(position_ids[0] == 0)[:, 0]
    ends = torch.cat((starts, starts.new_tensor([position_ids.shape[1]]))).to(torch.int32)
    longest = int((ends[1:] - ends[:-1]).max())
    numbers = (position_ids == 0).cumsum(1).to(torch.int32) - 1
    return {"seq_idx": numbers, "cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}


def keep_accepted(function: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments that a function takes, by name or all of them."""
    parameters = inspect.signature(function).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return arguments
    return {name: value for name, value in arguments.items() if name in parameters}


def refuse_bleeding(model: Any) -> None:
    """Raise ConfigError where a model computed without a layout does not keep the documents of a row apart; it is tried once."""
    if REASON_KEY not in vars(model):
        vars(model)[REASON_KEY] = find_bleeding(model)
    reason = vars(model)[REASON_KEY]
    if reason is not None:
        kind = model.config.get_text_config().model_type
        raise ConfigError(f"train.packing=true: {kind} does not keep the documents of a row apart: {reason}; type train.packing=false")


@torch.no_grad()
def find_bleeding(model: Any) -> str | None:
    """Why documents in one row do not have the numbers that each has alone; None where they have."""
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
    """What the documents' log-probabilities in one row and alone say."""
    alone = torch.cat([trial.score_next(compute_own_logits(model, input_ids=row[None]).logits[0], row) for row in rows])
    position_ids = torch.cat([torch.arange(len(row), device=row.device) for row in rows])[None]
    boundaries = keep_accepted(type(model.base_model).forward, {"position_ids": position_ids, **make_boundaries(position_ids)})
    states = compute_own_logits(model, input_ids=torch.cat(rows)[None], **boundaries).logits[0]
    together = [trial.score_next(part, row) for part, row in zip(states.split(list(LENGTHS)), rows, strict=True)]
    difference = float((torch.cat(together) - alone).abs().max())
    allowed = trial.get_allowed(model)
    return None if difference <= allowed else f"a token's log-probability differs by {difference:.2g} from the document alone"
