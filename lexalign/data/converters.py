"""Rows as public data sets store them into rows of our columns. A converter returns None for a row it cannot use (counted)."""

import re
from typing import Any

Row = dict[str, Any]
SPEAKERS = {"Human": "user", "Assistant": "assistant"}


def alpaca(row: Row) -> Row | None:
    """instruction, optional input, output -> prompt, completion."""
    prompt = f"{row['instruction']}\n\n{row['input']}" if row.get("input", "").strip() else row["instruction"]
    return {"prompt": prompt, "completion": row["output"]} if prompt.strip() and row["output"].strip() else None


def last_turns(row: Row) -> Row | None:
    """chosen and rejected conversations that share all but their last turn -> prompt (turns), chosen, rejected (texts)."""
    chosen, rejected = row["chosen"], row["rejected"]
    better, worse = chosen[-1]["content"], rejected[-1]["content"]
    if chosen[:-1] != rejected[:-1] or better == worse or not better.strip() or not worse.strip():
        return None
    turns = [{"role": turn["role"], "content": turn["content"]} for turn in chosen[:-1]]
    return {"prompt": turns, "chosen": better, "rejected": worse}


def hh_dialogue(row: Row) -> Row | None:
    """Two whole dialogues as text (`\\n\\nHuman: … \\n\\nAssistant: …`) -> prompt (turns), chosen, rejected (texts)."""

    def turns(text: str) -> list[dict[str, str]]:
        parts = re.split(r"\n\n(Human|Assistant): ?", text)[1:]
        return [{"role": SPEAKERS[who], "content": said.strip()} for who, said in zip(parts[::2], parts[1::2], strict=True)]

    chosen, rejected = turns(row["chosen"]), turns(row["rejected"])
    alternating = all(turn["role"] == ("user", "assistant")[i % 2] and turn["content"] for i, turn in enumerate(chosen))
    if not alternating or not chosen or not rejected or not rejected[-1]["content"] or chosen[-1]["role"] != "assistant":
        return None
    return last_turns({"chosen": chosen, "rejected": rejected})


def group_beliefs(row: Row) -> Row:
    """The layout of GDPO's authors (arXiv 2412.20299): prompt, accept_choice(_id), accept_response, reject_choice(_id), reject_response,
    probabilities -> prompt, chosen, rejected, belief, rejected_belief, probabilities. An id is taken before a text."""
    found = {"prompt": row["prompt"], "chosen": row["accept_response"], "rejected": row["reject_response"]}
    for ours, theirs in (("belief", "accept_choice"), ("rejected_belief", "reject_choice")):
        found[ours] = row[f"{theirs}_id"] if f"{theirs}_id" in row else row[theirs]
    return {**found, **({"probabilities": row["probabilities"]} if "probabilities" in row else {})}
