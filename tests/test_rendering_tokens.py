"""Text to tokens: the spans of a row are what the chat template writes, and gdpo's masks tell them apart."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

import lexalign.embedded
from lexalign.config.compose import compose
from lexalign.config.schema import Data
from lexalign.data import lengths
from lexalign.data.rendering import Renderer, pad_rows
from lexalign.data.rows import Splits
from lexalign.errors import DataError

TINY = Path(lexalign.embedded.__file__).parent / "tiny"
TOKENIZER = AutoTokenizer.from_pretrained(TINY)
SPECIAL = TOKENIZER.all_special_tokens
TEXTS = st.text(min_size=1, max_size=40).filter(lambda text: text.strip() and not any(token in text for token in SPECIAL))
ODD = st.integers(0, 2).flatmap(lambda pairs: st.lists(TEXTS, min_size=2 * pairs + 1, max_size=2 * pairs + 1))
TURNS = ODD.map(lambda texts: [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)])
quick = settings(max_examples=40, deadline=None)


@pytest.fixture(scope="module")
def data() -> Data:
    return compose(["stage=align", "method=gdpo", "model=tiny"]).experiment.data


@pytest.fixture(scope="module")
def encoder(data) -> Renderer:
    return Renderer(TOKENIZER, data)


def without_template() -> Any:
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    tokenizer.chat_template = None
    return tokenizer


def end(encoder: Renderer, text: str) -> list[int]:
    """The ids of a response with what ends it."""
    return encoder.ids(text + encoder.ending())


def believe(encoder: Renderer, index: int) -> list[int]:
    """The ids of a belief as written."""
    return encoder.ids(encoder.belief_text(index))


@quick
@given(prompt=TEXTS | TURNS, response=TEXTS, system=st.none() | TEXTS)
def test_prompt_and_response_are_what_the_template_writes(data, prompt, response, system):
    encoder = Renderer(TOKENIZER, dataclasses.replace(data, system=system))
    whole = [*encoder.turns(prompt), {"role": "assistant", "content": response}]
    rendered = TOKENIZER.apply_chat_template(whole, tokenize=False)
    spans = encoder.render_prompt(prompt) + end(encoder, response)
    assert TOKENIZER.decode(spans) == rendered
    # The template puts a special token between them, so the tokens of the parts are the tokens of the whole.
    assert spans == TOKENIZER.apply_chat_template(whole, return_dict=False) == encoder.ids(rendered)


@quick
@given(prompt=TEXTS, response=TEXTS, belief=st.integers(0, 5))
def test_a_belief_stands_before_its_response(encoder, prompt, response, belief):
    answer = encoder.belief_text(belief) + response
    rendered = TOKENIZER.apply_chat_template([*encoder.turns(prompt), {"role": "assistant", "content": answer}], tokenize=False)
    assert TOKENIZER.decode(encoder.render_prompt(prompt) + believe(encoder, belief) + end(encoder, response)) == rendered
    assert encoder.belief_text(belief) == f"{belief}<{encoder.data.beliefs[belief]}>"


@quick
@given(prompt=TEXTS, response=TEXTS)
def test_plain_text_without_a_template(data, prompt, response):
    encoder = Renderer(TOKENIZER, dataclasses.replace(data, chat_template="never"))
    assert TOKENIZER.decode(encoder.render_prompt(prompt), skip_special_tokens=True) == prompt
    assert TOKENIZER.decode(end(encoder, response)) == response + TOKENIZER.eos_token


def test_what_a_tokenizer_without_a_template_cannot_do(data):
    tokenizer = without_template()
    assert not Renderer(tokenizer, data).chat
    with pytest.raises(DataError, match="type data.chat_template=never"):
        Renderer(tokenizer, dataclasses.replace(data, chat_template="always"))
    with pytest.raises(DataError, match="holds chat turns, but the tokenizer has no chat template"):
        Renderer(tokenizer, data).render_prompt([{"role": "user", "content": "a"}])


@pytest.mark.parametrize("chat", [True, False])
def test_a_sequence_has_one_bos(data, chat):
    """A tokenizer that, like Llama's, puts a BOS before whatever it encodes, and a template that writes its own."""
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{tokenizer.bos_token} $A", special_tokens=[(tokenizer.bos_token, tokenizer.bos_token_id)]
    )
    assert tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    renderer = Renderer(tokenizer, data if chat else dataclasses.replace(data, chat_template="never"))
    row = {"prompt": "a", "chosen": "b", "rejected": "c", "belief": 0}
    for shared in (True, False):
        for sequence in renderer.render_pair(row, shared_belief=shared):
            assert [at for at, token in enumerate(sequence.ids) if token == tokenizer.bos_token_id] == [0]
    assert tokenizer(renderer.render_prompt_text("a"))["input_ids"] == renderer.render_prompt("a")


def test_two_system_messages_are_refused(data):
    encoder = Renderer(TOKENIZER, dataclasses.replace(data, system="Be kind."))
    assert encoder.turns("a")[0] == {"role": "system", "content": "Be kind."}
    with pytest.raises(DataError, match="type data.system=null"):
        encoder.turns([{"role": "system", "content": "Be curt."}, {"role": "user", "content": "a"}])


def test_beliefs_begin_with_tokens_of_their_own(encoder, data):
    firsts = encoder.first_belief_tokens()
    assert len(set(firsts)) == len(firsts) == 6
    assert [TOKENIZER.decode([token]) for token in firsts] == list("012345")
    alike = Renderer(TOKENIZER, dataclasses.replace(data, belief_format="<{text}>"))
    with pytest.raises(DataError, match="'<keep it as it is>' and '<change it a little>' begin with .*change data.belief_format"):
        alike.first_belief_tokens()


def test_more_than_ten_beliefs_collide_and_are_named(data):
    many = Renderer(TOKENIZER, dataclasses.replace(data, beliefs=[f"belief {number}" for number in range(12)]))
    with pytest.raises(DataError, match="'1<belief 1>' and '10<belief 10>' begin with the same token"):
        many.first_belief_tokens()


@given(table=st.lists(st.lists(st.integers(1, 9), max_size=6), min_size=1, max_size=4))
def test_stacked_pads_on_the_right(table):
    ids, mask = pad_rows(table, 0)
    assert [[token for token, real in zip(*pair, strict=True) if real] for pair in zip(ids, mask, strict=True)] == table
    assert {len(row) for row in ids + mask} == {max(map(len, table))}
    assert all(row == sorted(row, reverse=True) for row in mask)


SPAN = st.lists(st.integers(1, 99), min_size=1, max_size=6)
ROW = st.fixed_dictionaries({"context": SPAN, "belief": SPAN, "chosen": SPAN, "rejected": SPAN, "probabilities": st.just([0.25, 0.75])})


def believed(row):
    """A row of gdpo as its data set holds it."""
    spans = {"context": row["context"], "belief": row["belief"], "weights": None}
    sequences = [{**spans, "response": row[side]} for side in ("chosen", "rejected")]
    return {"sequences": sequences, "probabilities": row["probabilities"]}


def collator_of(max_length: int, **settings):
    """The collator of a method with such settings of its class."""
    from lexalign.training.collator import SpanCollator
    from lexalign.training.objective import Objective

    return SpanCollator(pad=0, max_length=max_length, objective=type("Own", (Objective,), settings)(None, None))


@quick
@given(rows=st.lists(ROW, min_size=1, max_size=4), room=st.integers(1, 20))
def test_the_masks_of_a_gdpo_batch_cover_their_spans_and_nothing_else(rows, room):
    max_length = max(len(row["context"]) for row in rows) + room
    collator = collator_of(max_length, scores_belief=True, columns=("probabilities",))
    batch = collator([believed(row) for row in rows])
    assert batch["input_ids"].shape == batch["attention_mask"].shape == batch["belief_mask"].shape == batch["weights"].shape
    assert batch["input_ids"].shape[0] == 2 * len(rows) and batch["input_ids"].shape[1] <= max_length
    assert not ((batch["belief_mask"] > 0) & (batch["weights"] > 0)).any()
    for at, (row, side) in enumerate((row, side) for side in ("chosen", "rejected") for row in rows):
        masks = ("attention_mask", "belief_mask", "weights")
        picked = {name: batch["input_ids"][at][batch[name][at] > 0].tolist() for name in masks}
        context, belief = row["context"], row["belief"]
        left = max_length - len(context)
        assert picked["attention_mask"] == (context + belief + row[side])[:max_length]
        assert picked["belief_mask"] == belief[:left]
        assert picked["weights"] == row[side][: max(0, left - len(belief))]
        trained = (belief[:left] if side == "chosen" else []) + picked["weights"]
        assert batch["labels"][at][batch["labels"][at] != -100].tolist() == trained, "the rejected rows repeat the belief"
        assert batch["context_lengths"][at] == len(context)
    assert batch["probabilities"].tolist() == [row["probabilities"] for row in rows] and batch["counts"]["rows"] == len(rows)


def test_a_batch_gives_back_the_spans_its_rows_are_known_by():
    """The reference store finds a row by its ids, taken from the row before training and from the batch while training."""
    from lexalign.cache.reference import make_row_key
    from lexalign.training.collator import list_row_spans, list_spans

    rows = [
        {"context": [1, 2, 3], "belief": [4], "chosen": [5, 6], "rejected": [7], "probabilities": [1.0]},
        {"context": [8], "belief": [9, 9], "chosen": [3], "rejected": [2, 2, 2, 2], "probabilities": [1.0]},
    ]
    stored = [believed(row) for row in rows]
    for max_length in (6, 4):
        spans = list_spans(collator_of(max_length, columns=("probabilities",))(stored))
        wanted = [
            ((row["context"] + row["belief"])[:max_length], row[side][: max(0, max_length - len(row["context"] + row["belief"]))], None)
            for side in ("chosen", "rejected") for row in rows
        ]  # fmt: skip
        assert spans == wanted
        assert [one for at in (0, 1) for row in stored for one in [list_row_spans(row, max_length)[at]]] == wanted
    assert make_row_key([1, 2], [3]) != make_row_key([1], [2, 3]), "where the response begins tells rows apart"
    assert make_row_key([1], [2, 3]) != make_row_key([1], [2, 3], [1.0, 0.5]), "and so do its weights"


def test_weights_reach_the_batch_and_its_counts():
    sequence = {"context": [1, 2], "belief": [], "response": [3, 4, 5], "weights": [1.0, 0.0, 0.5]}
    batch = collator_of(9, rows="answer")([{"sequences": [sequence]}])
    assert batch["weights"].tolist() == [[0, 0, 1.0, 0.0, 0.5]] and batch["labels"].tolist() == [[-100, -100, 3, -100, 5]]
    assert batch["counts"] == {"rows": 1, "trained": 1.5, "computed": 5}
    whole = collator_of(9, scores_prompts=True)([{"sequences": [sequence, sequence]}])
    assert whole["labels"].tolist() == [[1, 2, 3, 4, 5], [-100, -100, 3, -100, 5]] and whole["counts"]["trained"] == 3.5
    first = collator_of(9, rows="answer")([{"sequences": [{**sequence, "context": [], "response": [3, 4], "weights": None}]}])
    assert first["counts"]["trained"] == 1.0, "the very first token has nothing before it to be predicted from"


def test_rows_too_long_are_left_out_or_cut_and_counted(encoder):
    def row(prompt: str, response: str) -> dict[str, Any]:
        return {"prompt": prompt, "completion": response}

    table = [row("a", "b"), row("a", "b " * 50), row("a " * 50, "b")]
    splits = Splits(train=list(table), held_out=list(table))
    found = lengths.fit_lengths(splits, lengths.measure_one_by_one(encoder), max_length=32)
    assert splits.train == splits.held_out == table[:2] and found.longest == 32
    counts = {name: splits.counts[name] for name in ("train_rows_dropped_prompt_too_long", "train_rows_cut", "held_out_rows_cut")}
    assert set(counts.values()) == {1}
    with pytest.raises(DataError, match="every train row's prompt fills train.max_length=8; raise it"):
        lengths.fit_lengths(Splits(train=[table[2]], held_out=[]), lengths.measure_one_by_one(encoder), max_length=8)


def test_control_tokens_in_texts_are_counted_and_named(caplog):
    pair = {"prompt": "p", "chosen": "c", "rejected": "r"}
    turn = {"role": "user", "content": "a <|user|> b"}
    train = [pair, {**pair, "chosen": "c<|end|>"}, {"messages": [turn]}, {"text": "<|user|>as it stands<|end|>"}]
    splits = Splits(train=train, held_out=[pair, {**pair, "prompt": [turn]}])
    with caplog.at_level(logging.WARNING):
        lengths.note_control_tokens(splits, TOKENIZER)
    assert (splits.counts["train_rows_with_control_tokens"], splits.counts["held_out_rows_with_control_tokens"]) == (2, 1)
    assert "2 of 4 train rows hold a control token" in caplog.text and "(first: 'chosen' holds '<|end|>' in row 2 of them)" in caplog.text
    assert "'prompt' holds '<|user|>' in row 2 of them" in caplog.text


def test_lengths_count_what_is_trained(encoder):
    pair = {"prompt": "a", "chosen": "b c", "rejected": "d", "belief": 0, "rejected_belief": 1}
    prompt, chosen, rejected = (
        encoder.render_prompt("a"),
        believe(encoder, 0) + end(encoder, "b c"),
        believe(encoder, 1) + end(encoder, "d"),
    )
    longest, total = len(prompt) + max(len(chosen), len(rejected)), 2 * len(prompt) + len(chosen) + len(rejected)
    assert lengths.measure_lengths(pair, encoder) == (len(prompt), longest, total, max(prompt + chosen + rejected))
    plain = Renderer(without_template(), encoder.data)
    with pytest.raises(DataError, match="data.columns.messages holds chat turns, but the tokenizer has no chat template"):
        lengths.measure_lengths({"messages": [{"role": "user", "content": "a"}]}, plain)
