"""Find the trained tokens of a conversation: the assistant's turns, by the template's marks or by prefixes of the conversation."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from typing import TYPE_CHECKING, Any

from lexalign.data.template import Turns
from lexalign.errors import DataError

if TYPE_CHECKING:
    from lexalign.data.rendering import Renderer


def weigh_conversation(renderer: Renderer, turns: Turns, row: dict[str, Any], trains: str) -> tuple[list[int], list[float]]:
    """The ids of a whole conversation, and the weight of each id: 0 if it is not trained, else 1 or the weight of its turn.

    `trains` is `assistant` (every turn of the assistant), `last_turn` or `all`. The turns are found by the template's generation marks
    if it has marks and every turn is trained, else by prefixes. A turn begins where the conversation first differs from the text that the
    template writes before the turn, and ends with the token that ends a turn.
    """
    arguments = renderer.get_template_arguments(row)
    text = renderer.template.write(turns, **arguments)
    ids = renderer.ids(text)
    answers = [index for index, turn in enumerate(turns) if turn["role"] == "assistant"]
    trained_turns = answers if trains != "last_turn" else answers[-1:]
    spans = find_spans(renderer, turns, ids, answers, arguments)
    for index in trained_turns:
        start, end = spans[index]
        region = renderer.tokenizer.decode(ids[start:end], clean_up_tokenization_spaces=False)
        renderer.checks.check_answer(turns[index], region, renderer.describe_place(row, turns[index]))
    renderer.checks.check_context(turns, text, row, but=set(trained_turns))
    if trains == "all":
        return ids, [1.0] * len(ids)
    if trains == "assistant" and renderer.template.has_marks(arguments["tools"]):
        marked_ids, mask = renderer.template.mark(turns, **arguments)
        if any(mask):
            assert marked_ids == ids, "the ids of a conversation do not depend on whether its marks are asked for"
            return ids, weigh_marks(turns, mask, {index: spans[index][0] for index in answers})
    weights = [0.0] * len(ids)
    for index in trained_turns:
        start, end = spans[index]
        weights[start:end] = [float(turns[index].get("weight", 1.0))] * (end - start)
    return ids, weights


def find_spans(
    renderer: Renderer, turns: Turns, ids: list[int], answers: list[int], arguments: dict[str, Any]
) -> dict[int, tuple[int, int]]:
    """The start and the end of each assistant turn in the ids; raises DataError if the end of a turn cannot be found."""
    from lexalign.data.rendering import count_common

    ids_before = {
        index: renderer.ids(renderer.template.write(turns[:index], answer_next=True, **arguments)) if index else [] for index in answers
    }
    starts = {index: count_common(ids_before[index], ids) for index in answers}
    for index in answers:
        if starts[index] < len(ids_before[index]) and index == answers[-1]:
            lost_text = renderer.tokenizer.decode(ids_before[index][starts[index] :])
            renderer.changes.add("prompt_differs", f"{arguments['where']}: {lost_text!r} is not in the conversation")
    spans = {}
    for index, next_index in zip(answers, [*answers[1:], None], strict=True):
        limit = len(ids) if next_index is None else starts[next_index]
        ids_up_to = ids if index == len(turns) - 1 else renderer.ids(renderer.template.write(turns[: index + 1], **arguments))
        end = count_common(ids_up_to, ids)
        if end < len(ids_up_to):  # the later turns change the text of this turn
            end = find_end(renderer, ids, ids_up_to, starts[index], end, limit)
        if not starts[index] < end <= limit:
            where = arguments["where"] or "a conversation"
            raise DataError(
                f"{where}: the chat template does not let turn {index + 1} be told from the others; type method.loss_on=last_turn"
            )
        spans[index] = starts[index], starts[index] + len(renderer.cut_after_end(ids[starts[index] : end]))
    return spans


def find_end(renderer: Renderer, ids: list[int], ids_up_to: list[int], start: int, split_point: int, limit: int) -> int:
    """The end of the turn that begins at `start`. At `split_point` the conversation first differs from the text up to this turn."""
    end_position = next((position for position in range(start, split_point) if ids[position] in renderer.end_tokens), None)
    if end_position is not None:
        return end_position + 1
    if split_point < limit and ids[split_point] in renderer.special_tokens and ids_up_to[split_point] in renderer.end_tokens:
        return split_point + 1  # another special token ends a turn that is not the last
    end_position = next((position for position in range(split_point, limit) if ids[position] in renderer.end_tokens), None)
    return split_point if end_position is None else end_position + 1


def weigh_marks(turns: Turns, mask: list[int], starts: dict[int, int]) -> list[float]:
    """The weight of each token inside the template's marks: the weight of the last turn that begins before the end of the marked run.

    Marks may begin before the text of the turn, if they enclose the assistant's header.
    """
    order = sorted(starts, key=starts.__getitem__)
    positions = [starts[index] for index in order]
    weights, start = [0.0] * len(mask), 0
    for is_marked, tokens in itertools.groupby(mask):
        end = start + len(list(tokens))
        if is_marked:
            turn = turns[order[max(0, bisect_right(positions, end - 1) - 1)]]
            weights[start:end] = [float(turn.get("weight", 1.0))] * (end - start)
        start = end
    return weights
