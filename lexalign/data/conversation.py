"""Which tokens of a conversation are trained: the assistant's turns, by the template's own marks or by prefixes of the conversation."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lexalign.data.rendering import RenderedSequence, Renderer
    from lexalign.data.template import Turns


def mark_answers(renderer: "Renderer", turns: "Turns", row: dict[str, Any]) -> "RenderedSequence":
    """The whole conversation with a weight for each token."""
    from lexalign.data.rendering import RenderedSequence

    arguments = renderer._arguments(row)
    ids = renderer.ids(renderer.template.write(turns, **arguments))
    if renderer.loss_on == "all":
        return RenderedSequence(context=[], response=ids)
    weights = [0.0] * len(ids)
    answers = [at for at, turn in enumerate(turns) if turn["role"] == "assistant"]
    for at in answers if renderer.loss_on in ("auto", "assistant") else answers[-1:]:
        before = renderer.ids(renderer.template.write(turns[:at], answer_next=True, **arguments))
        upto = renderer.ids(renderer.template.write(turns[: at + 1], **arguments))
        from lexalign.data.rendering import count_common

        start = count_common(before, ids)
        end = start + len(renderer.cut_after_end(upto[start : count_common(upto, ids)]))
        weights[start:end] = [float(turns[at].get("weight", 1.0))] * (end - start)
    first = next((at for at, weight in enumerate(weights) if weight), len(ids))
    return RenderedSequence(context=ids[:first], response=ids[first:], weights=weights[first:])
