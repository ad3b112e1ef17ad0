"""Rows as public data sets store them into rows of our columns.

A converter returns None for a row it cannot use (counted), and a list, or `Several`, where one stored row holds several of ours.
"""

import ast
import hashlib
import json
import math
import random
import re
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]
SPEAKERS = {"Human": "user", "Assistant": "assistant"}
LETTERS = "ABCDEFGHIJK"
"""The beliefs of `global_opinions`, as conf/data/global_opinions.yaml lists them: a letter for each option of a question."""
ROUNDING = 0.005
"""How far a share written with two digits may be from the true one."""


@dataclass(frozen=True, kw_only=True)
class ConvertedRows:
    """Our rows in one stored row; `left_out` of those it holds cannot be used, `rescaled` had shares that summed to 1 only nearly."""

    rows: list[Row]
    left_out: int = 0
    rescaled: int = 0


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
    probabilities -> prompt, chosen, rejected, belief, rejected_belief, probabilities. Where both stand, id and text must agree."""
    found = {"prompt": row["prompt"], "chosen": row["accept_response"], "rejected": row["reject_response"]}
    for ours, theirs in (("belief", "accept_choice"), ("rejected_belief", "reject_choice")):
        both = {name: row[key] for name, key in (("id", f"{theirs}_id"), ("text", theirs)) if key in row}
        found[ours] = both if len(both) == 2 else both.get("id", both.get("text"))
    return {**found, **({"probabilities": row["probabilities"]} if "probabilities" in row else {})}


def global_opinions(row: Row) -> ConvertedRows | None:
    """GlobalOpinionQA (arXiv 2306.16388; `Anthropic/llm_global_opinions`): question, options, selections (country -> shares of the options)
    -> a row for each country that was asked.

    The data hold shares, no responses, and each question has options of its own. So a belief is an option's letter, the prompt names the
    country and lists the options, and the response is the option's text. The chosen option is drawn by the country's shares, the rejected
    one by the shares of the others, from a seed made of question and country. Shares are padded with zeros to all of `LETTERS`.

    A question without text, or with fewer than 2, more than 11 or equal options is left out; so is a country whose shares are not as many
    as the options, negative, or further from the sum 1 than rounding explains. Shares within rounding are rescaled, and counted.
    """
    question, options = row["question"], [str(option).strip() for option in parse_literal(row["options"], list)]
    if not isinstance(question, str) or not question.strip() or not all(options):
        return None
    if not 2 <= len(options) <= len(LETTERS) or len(set(options)) < len(options):
        return None
    listed = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))
    rows, rescaled = [], 0
    asked = parse_literal(row["selections"], dict)
    for country, given in asked.items():
        shares = [float(share) for share in given]
        total = math.fsum(shares)
        if len(shares) != len(options) or not all(share >= 0 for share in shares) or not abs(total - 1) <= ROUNDING * len(shares) + 1e-9:
            continue
        rescaled += abs(total - 1) > 1e-6
        shares = [share / total for share in shares]
        chance = random.Random(hashlib.sha256(json.dumps([question, options, country]).encode()).digest())
        chosen = chance.choices(range(len(shares)), shares)[0]
        others = [index for index in range(len(shares)) if index != chosen]
        weights = [shares[index] for index in others]
        rejected = chance.choices(others, weights if any(weights) else None)[0]
        rows.append({
            "prompt": f"How would someone from {country} answer this question?\n\n{question.strip()}\n{listed}",
            "chosen": options[chosen],
            "rejected": options[rejected],
            "belief": chosen,
            "rejected_belief": rejected,
            "probabilities": shares + [0.0] * (len(LETTERS) - len(shares)),
            "group": str(country),
        })  # fmt: skip
    return ConvertedRows(rows=rows, left_out=len(asked) - len(rows), rescaled=rescaled)


def parse_literal(value: Any, kind: type) -> Any:
    """A list or dict, which may be written as Python shows it: `defaultdict(<class 'list'>, {…})` too."""
    if isinstance(value, str):
        begin, end = ("{", "}") if kind is dict else ("[", "]")
        value = ast.literal_eval(value[value.find(begin) : value.rfind(end) + 1])
    if not isinstance(value, kind):
        raise TypeError(f"expected {kind.__name__}, found {value!r}")
    return value
