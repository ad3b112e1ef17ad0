"""Which tokens of a conversation are trained: the assistant's turns, by the template's own marks or by prefixes of the conversation."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from typing import TYPE_CHECKING, Any

from lexalign.data.template import Turns
from lexalign.errors import DataError

if TYPE_CHECKING:
    from lexalign.data.rendering import Renderer


def weigh_conversation(renderer: Renderer, turns: Turns, row: dict[str, Any], trains: str) -> tuple[list[int], list[float]]:
    """The ids of a whole conversation, and the weight of each: 0 for what is only read, else 1 or the turn's own weight.

    `trains` is `assistant` (every turn of the assistant), `last_turn` or `all`. The turns are found by the template's generation marks
    where it has some and every turn is trained, else by prefixes: a turn begins where the conversation leaves what the template writes
    before it, and ends with the token that ends a turn.
    """
    arguments = renderer.get_template_arguments(row)
    text = renderer.template.write(turns, **arguments)
    ids = renderer.ids(text)
    answers = [at for at, turn in enumerate(turns) if turn["role"] == "assistant"]
    wanted = answers if trains != "last_turn" else answers[-1:]
    spans = find_spans(renderer, turns, ids, answers, arguments)
    for at in wanted:
        start, end = spans[at]
        region = renderer.tokenizer.decode(ids[start:end], clean_up_tokenization_spaces=False)
        renderer.checks.check_answer(turns[at], region, renderer.describe_place(row, turns[at]))
    renderer.checks.check_context(turns, text, row, but=set(wanted))
    if trains == "all":
        return ids, [1.0] * len(ids)
    if trains == "assistant" and renderer.template.has_marks(arguments["tools"]):
        marked, mask = renderer.template.mark(turns, **arguments)
        if any(mask):
            assert marked == ids, "the ids of a conversation do not depend on whether its marks are asked for"
            return ids, weigh_marks(turns, mask, {at: spans[at][0] for at in answers})
    weights = [0.0] * len(ids)
    for at in wanted:
        start, end = spans[at]
        weights[start:end] = [float(turns[at].get("weight", 1.0))] * (end - start)
    return ids, weights


def find_spans(
    renderer: Renderer, turns: Turns, ids: list[int], answers: list[int], arguments: dict[str, Any]
) -> dict[int, tuple[int, int]]:
    """Where each assistant turn begins and ends among the ids; raises DataError where a turn's end cannot be told."""
    from lexalign.data.rendering import count_common

    before = {at: renderer.ids(renderer.template.write(turns[:at], answer_next=True, **arguments)) if at else [] for at in answers}
    starts = {at: count_common(before[at], ids) for at in answers}
    for at in answers:
        if starts[at] < len(before[at]) and at == answers[-1]:
            lost = renderer.tokenizer.decode(before[at][starts[at] :])
            renderer.changes.add("prompt_differs", f"{arguments['where']}: {lost!r} is not in the conversation")
    spans = {}
    for at, following in zip(answers, [*answers[1:], None], strict=True):
        limit = len(ids) if following is None else starts[following]
        upto = ids if at == len(turns) - 1 else renderer.ids(renderer.template.write(turns[: at + 1], **arguments))
        end = count_common(upto, ids)
        if end < len(upto):  # what follows changes how the turn is written
            end = find_end(renderer, ids, upto, starts[at], end, limit)
        if not starts[at] < end <= limit:
            where = arguments["where"] or "a conversation"
            raise DataError(f"{where}: the chat template does not let turn {at + 1} be told from the others; type method.loss_on=last_turn")
        spans[at] = starts[at], starts[at] + len(renderer.cut_after_end(ids[starts[at] : end]))
    return spans


def find_end(renderer: Renderer, ids: list[int], upto: list[int], start: int, parted: int, limit: int) -> int:
    """Where a turn ends that begins at `start`, where the conversation leaves, at `parted`, what the template writes up to this turn."""
    ended = next((place for place in range(start, parted) if ids[place] in renderer.end_tokens), None)
    if ended is not None:
        return ended + 1
    if parted < limit and ids[parted] in renderer.special_tokens and upto[parted] in renderer.end_tokens:
        return parted + 1  # another special token ends a turn that is not the last
    ended = next((place for place in range(parted, limit) if ids[place] in renderer.end_tokens), None)
    return parted if ended is None else ended + 1


def weigh_marks(turns: Turns, mask: list[int], starts: dict[int, int]) -> list[float]:
    """The weight of each token inside the template's marks: that of the turn which begins last before its run of marked tokens ends.

    Marks may begin before the turn's text does, where they enclose the assistant's header.
    """
    order = sorted(starts, key=starts.__getitem__)
    places = [starts[at] for at in order]
    weights, begin = [0.0] * len(mask), 0
    for marked, run in itertools.groupby(mask):
        end = begin + len(list(run))
        if marked:
            turn = turns[order[max(0, bisect_right(places, end - 1) - 1)]]
            weights[begin:end] = [float(turn.get("weight", 1.0))] * (end - begin)
        begin = end
    return weights
