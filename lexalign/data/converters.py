"""Convert rows of public data sets to rows in our columns.

A converter returns None for a row that it cannot use (counted). It returns a list or `ConvertedRows` if one stored row holds several rows.
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
"""Largest difference between a share written with two digits and its exact value."""


@dataclass(frozen=True, kw_only=True)
class ConvertedRows:
    """The rows in one stored row. `left_out` counts rows that cannot be used; `rescaled` counts rows whose shares did not sum to 1."""

    rows: list[Row]
    left_out: int = 0
    rescaled: int = 0


def alpaca(row: Row) -> Row | None:
    """instruction, optional input, output -> prompt, completion."""
    prompt = f"{row['instruction']}\n\n{row['input']}" if row.get("input", "").strip() else row["instruction"]
    return {"prompt": prompt, "completion": row["output"]} if prompt.strip() and row["output"].strip() else None


def last_turns(row: Row) -> Row | None:
    """chosen and rejected conversations that share all but their last turn -> prompt (turns), chosen, rejected (texts)."""
    chosen_turns, rejected_turns = row["chosen"], row["rejected"]
    chosen_text, rejected_text = chosen_turns[-1]["content"], rejected_turns[-1]["content"]
    if chosen_turns[:-1] != rejected_turns[:-1] or chosen_text == rejected_text or not chosen_text.strip() or not rejected_text.strip():
        return None
    turns = [{"role": turn["role"], "content": turn["content"]} for turn in chosen_turns[:-1]]
    return {"prompt": turns, "chosen": chosen_text, "rejected": rejected_text}


def hh_dialogue(row: Row) -> Row | None:
    """Two whole dialogues as text (`\\n\\nHuman: … \\n\\nAssistant: …`) -> prompt (turns), chosen, rejected (texts)."""

    def turns(text: str) -> list[dict[str, str]]:
        parts = re.split(r"\n\n(Human|Assistant): ?", text)[1:]
        return [{"role": SPEAKERS[speaker], "content": content.strip()} for speaker, content in zip(parts[::2], parts[1::2], strict=True)]

    chosen_turns, rejected_turns = turns(row["chosen"]), turns(row["rejected"])
    is_alternating = all(turn["role"] == ("user", "assistant")[i % 2] and turn["content"] for i, turn in enumerate(chosen_turns))
    if (
        not is_alternating
        or not chosen_turns
        or not rejected_turns
        or not rejected_turns[-1]["content"]
        or chosen_turns[-1]["role"] != "assistant"
    ):
        return None
    return last_turns({"chosen": chosen_turns, "rejected": rejected_turns})


def group_beliefs(row: Row) -> Row:
    """The layout of GDPO's authors (arXiv 2412.20299): prompt, accept_choice(_id), accept_response, reject_choice(_id), reject_response,
    probabilities -> prompt, chosen, rejected, belief, rejected_belief, probabilities. If both are present, id and text must agree."""
    converted_row = {"prompt": row["prompt"], "chosen": row["accept_response"], "rejected": row["reject_response"]}
    for our_column, their_column in (("belief", "accept_choice"), ("rejected_belief", "reject_choice")):
        values = {name: row[key] for name, key in (("id", f"{their_column}_id"), ("text", their_column)) if key in row}
        converted_row[our_column] = values if len(values) == 2 else values.get("id", values.get("text"))
    return {**converted_row, **({"probabilities": row["probabilities"]} if "probabilities" in row else {})}


def global_opinions(row: Row) -> ConvertedRows | None:
    """GlobalOpinionQA (arXiv 2306.16388; `Anthropic/llm_global_opinions`): question, options, selections (country -> shares of the options)
    -> a row for each country that was asked.

    The data hold shares but no responses, and each question has its own options. So a belief is the letter of an option, the prompt names
    the country and lists the options, and the response is the text of the option. The chosen option is drawn with the country's shares,
    the rejected option with the shares of the other options. The seed is made of question, options and country. Shares are padded with
    zeros to the length of `LETTERS`.

    A question is left out if it has no text, fewer than 2 or more than 11 options, or equal options. A country is left out if the number of
    its shares differs from the number of options, a share is negative, or the sum differs from 1 by more than rounding explains. Shares
    whose sum differs from 1 only by rounding are rescaled and counted.
    """
    question, options = row["question"], [str(option).strip() for option in parse_literal(row["options"], list)]
    if not isinstance(question, str) or not question.strip() or not all(options):
        return None
    if not 2 <= len(options) <= len(LETTERS) or len(set(options)) < len(options):
        return None
    option_list = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))
    rows, rescaled_count = [], 0
    shares_by_country = parse_literal(row["selections"], dict)
    for country, country_shares in shares_by_country.items():
        shares = [float(share) for share in country_shares]
        sum_of_shares = math.fsum(shares)
        if (
            len(shares) != len(options)
            or not all(share >= 0 for share in shares)
            or not abs(sum_of_shares - 1) <= ROUNDING * len(shares) + 1e-9
        ):
            continue
        rescaled_count += abs(sum_of_shares - 1) > 1e-6
        shares = [share / sum_of_shares for share in shares]
        rng = random.Random(hashlib.sha256(json.dumps([question, options, country]).encode()).digest())
        chosen_index = rng.choices(range(len(shares)), shares)[0]
        other_indices = [index for index in range(len(shares)) if index != chosen_index]
        weights = [shares[index] for index in other_indices]
        rejected_index = rng.choices(other_indices, weights if any(weights) else None)[0]
        rows.append({
            "prompt": f"How would someone from {country} answer this question?\n\n{question.strip()}\n{option_list}",
            "chosen": options[chosen_index],
            "rejected": options[rejected_index],
            "belief": chosen_index,
            "rejected_belief": rejected_index,
            "probabilities": shares + [0.0] * (len(LETTERS) - len(shares)),
            "group": str(country),
        })  # fmt: skip
    return ConvertedRows(rows=rows, left_out=len(shares_by_country) - len(rows), rescaled=rescaled_count)


def parse_literal(value: Any, kind: type) -> Any:
    """A list or dict, or the value of its text in Python's notation, also of `defaultdict(<class 'list'>, {…})`."""
    if isinstance(value, str):
        begin, end = ("{", "}") if kind is dict else ("[", "]")
        value = ast.literal_eval(value[value.find(begin) : value.rfind(end) + 1])
    if not isinstance(value, kind):
        raise TypeError(f"expected {kind.__name__}, found {value!r}")
    return value
