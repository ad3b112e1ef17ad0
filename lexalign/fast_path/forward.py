"""The model's forward as the trainers call it, `model(..., labels=..., fused_lm_head=True)`, on the fast path.

The trainers ask for the log-probabilities of the labelled tokens and get them in the shape of the batch. The fast path computes no padding,
no prompt twice, and no unlabelled position at the LM head.
"""

import types
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import ModelOutput

from lexalign.fast_path import attention, casts, documents, last_layer, lm_head, router_loss
from lexalign.fast_path.logit_map import compute_own_logits, get_logit_map
from lexalign.fast_path.packing import Layout, lay_out_documents, lay_out_shared_prefixes, round_up
from lexalign.fast_path.trial import IGNORED

ROUND = 64
"""In bfloat16 on a CPU, the rows of a matrix product are a multiple of this number. oneDNN compiles and keeps a kernel for each number of
rows, which takes milliseconds."""


@dataclass
class TokenScores(ModelOutput):
    """The fields of TRL's `FusedCausalLMOutput`, each (R, T-1), zero where nothing is labelled.

    In addition `also`, log-probabilities of one more token at the labelled positions, and `logits` (B, V) at the requested positions.
    """

    log_probs: Tensor | None = None
    entropy: Tensor | None = None
    mean_logits: Tensor | None = None
    is_top1: Tensor | None = None
    label_mask: Tensor | None = None
    also: Tensor | None = None
    logits: Tensor | None = None
    aux_loss: Tensor | None = None
    """The auxiliary loss of the router of a mixture of experts, in training only. The caller adds it to the loss. It is multiplied by the
    model's `router_aux_loss_coef`, unless the caller asks for `output_router_logits`, as TRL does, which multiplies the loss itself."""


def install_forward(model: Any, *, packed: bool, alike: int) -> None:
    """Give a causal language model (the base model, if there is an adapter) the forward of the fast path.

    packed: compute each token once (`Layout`); else compute the padded batch. alike: the number of rows that continue one prompt.
    A model whose logits are more than a linear layer of its last states uses its own forward on the padded batch.
    """
    original = model.forward
    logit_map = get_logit_map(model)
    packed = packed and logit_map is not None
    if packed:
        model.set_attn_implementation(attention.NAME)
        last_layer.shorten_last_layer(model)

    def forward(self: Any, *args: Any, fused_lm_head: bool = False, labels: Tensor | None = None, **kwargs: Any) -> Any:
        if not fused_lm_head:
            return original(*args, **({"labels": labels} if labels is not None else {}), **kwargs)
        assert labels is not None, "scores are asked for without labels"
        return score_tokens(self, labels=labels, logit_map=logit_map, packed=packed, alike=alike, **kwargs)

    # generate() reads the signature of the class's own forward.
    forward.__wrapped__ = type(model).forward  # type: ignore[attr-defined]
    model.forward = types.MethodType(forward, model)


def score_tokens(
    model: Any,
    *,
    input_ids: Tensor,
    labels: Tensor,
    logit_map: lm_head.LogitMap | None,
    packed: bool,
    alike: int,
    attention_mask: Tensor | None = None,
    position_ids: Tensor | None = None,
    positions: Tensor | None = None,
    details: bool = True,
    also: int | None = None,
    temperature: float = 1.0,
    output_router_logits: bool | None = None,
    **_: Any,
) -> TokenScores:
    """Scores of the labelled tokens of a batch (R, T), and the whole logits at one of the `positions` (B,) of each of the rows 0..B-1.

    `also` is a token id: log softmax(z / temperature)[also] is returned at every labelled position (with gradient only at temperature 1).
    Without a `logit_map` the logits are the model's own. Raises ConfigError if a row holds documents that the model does not separate.
    """
    is_unscaled, balance_loss = bool(output_router_logits), router_loss.find_router_loss(model)
    if not (is_unscaled or router_loss.is_wanted(model)):
        balance_loss = None
    layout = make_layout(input_ids, attention_mask, position_ids, alike) if packed and logit_map is not None else None
    head = model.get_output_embeddings()
    row_multiple = get_row_multiple(next(model.parameters()) if head is None else head.weight)
    layout = layout.rounded(row_multiple) if layout is not None else None
    slots = torch.arange(input_ids.numel(), device=input_ids.device).view(input_ids.shape) if layout is None else layout.slots
    mask = labels[:, 1:] != IGNORED
    read_positions = [slots[:, :-1][mask]]
    if positions is not None:
        read_positions.append(slots[: len(positions)].gather(1, positions[:, None])[:, 0])
    if layout is None:
        states = compute_padded(model, input_ids, attention_mask, position_ids, own=logit_map is None, routers=balance_loss is not None)
    else:
        # An auxiliary loss needs all tokens, also in the last layer.
        if last_layer.is_short(model) and any(map(len, read_positions)) and balance_loss is None:
            positions_read, places = torch.unique(torch.cat(read_positions), return_inverse=True)
            layout, read_positions = (
                replace(layout, read=round_up(positions_read, row_multiple)),
                list(places.split([len(positions_part) for positions_part in read_positions])),
            )
        states = compute_packed(model, input_ids, layout, routers=balance_loss is not None)
    outputs: dict[str, Tensor | None] = {}
    if balance_loss is not None:
        loss = balance_loss.compute(states.router_logits, None if layout is None else slots, attention_mask)
        outputs["aux_loss"] = loss if is_unscaled else balance_loss.coefficient * loss
    if logit_map is None:  # the rows are already logits
        rows, head, logit_map, row_multiple = states.logits.flatten(0, 1), torch.nn.Identity(), lm_head.LogitMap(), 1
    else:
        rows = states.last_hidden_state.flatten(0, 1)
    assert layout is None or layout.read is None or len(rows) == len(layout.read), "the last layer gave other positions than are read"
    states_read, targets = rows.index_select(0, round_up(read_positions[0], row_multiple)), round_up(labels[:, 1:][mask], row_multiple)
    is_tempered = also is not None and temperature != 1.0
    assert not (is_tempered and torch.is_grad_enabled()), "a tempered score has no gradient"
    scores = lm_head.score_targets(states_read, targets, head, logit_map, details=details, also=None if is_tempered else also)
    outputs |= {name: scatter_to_batch(getattr(scores, name), mask) for name in lm_head.NAMES}
    if is_tempered:
        assert also is not None
        outputs["also"] = scatter_to_batch(lm_head.score_at_temperature(states_read, also, head, logit_map, temperature), mask)
    if positions is not None:
        outputs["logits"] = lm_head.compute_logits(rows.index_select(0, read_positions[1]), head, logit_map)
    return TokenScores(label_mask=mask, **outputs)


def compute_packed(model: Any, input_ids: Tensor, layout: Layout, *, routers: bool) -> Any:
    """The model's last hidden states (1, N, h) of the tokens that the layout of a batch (R, T) names, or only of those that are read."""
    return model.base_model(
        input_ids=input_ids.reshape(-1)[layout.tokens][None],
        position_ids=layout.position_ids,
        attention_mask=input_ids.new_ones(
            1, 1, 1, 1, dtype=torch.bool
        ),  # transformers takes a mask with four dimensions as it is, and our attention ignores it
        use_cache=False,
        layout=layout,
        **({"output_router_logits": True} if routers else {}),
    )


def compute_padded(
    model: Any, input_ids: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None, *, own: bool, routers: bool
) -> Any:
    """The model's last hidden states, or with `own` its own logits, of a padded batch (R, T) or of rows of documents."""
    inputs: dict[str, Any] = {"attention_mask": attention_mask, "position_ids": position_ids}
    if routers:
        inputs["output_router_logits"] = True
    if documents.hold_documents(position_ids, attention_mask):
        documents.refuse_bleeding(model)
        assert position_ids is not None
        input_ids, position_ids = input_ids.reshape(1, -1), position_ids.reshape(1, -1)
        boundaries = documents.keep_accepted(type(model.base_model).forward, documents.make_boundaries(position_ids))
        inputs |= {"position_ids": position_ids, **boundaries}
    inputs = {name: value for name, value in inputs.items() if value is not None}
    return (
        compute_own_logits(model, input_ids=input_ids, **inputs)
        if own
        else model.base_model(input_ids=input_ids, use_cache=False, **inputs)
    )


def get_row_multiple(weight: Tensor) -> int:
    """The number of rows of a matrix product with this weight should be a multiple of this number."""
    return ROUND if weight.device.type == "cpu" and casts.get_compute_dtype(weight) == torch.bfloat16 else 1


def make_layout(input_ids: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None, alike: int) -> Layout:
    """The layout of a batch from TRL's collators: padded on the right, or with several documents in a row."""
    if attention_mask is None:
        assert position_ids is not None, "a batch without an attention mask tells its documents apart by position_ids"
        return lay_out_documents(position_ids)
    lengths = attention_mask.sum(1)
    assert bool((attention_mask.cumprod(1).sum(1) == lengths).all()), "the batch is not padded on the right"
    return lay_out_shared_prefixes(input_ids, lengths, alike=alike)


def scatter_to_batch(values: Tensor | None, mask: Tensor) -> Tensor | None:
    """Values of the positions in `mask`, in the shape of the batch, zero elsewhere. Values after those are dropped.

    The result is connected to the model even if no position is in the mask.
    """
    return None if values is None else values.new_zeros(mask.shape).masked_scatter(mask, values)
