"""One rendering for training and measuring: on the templates of real families the ids and spans of every shape of row, held to TRL's."""

import dataclasses
from itertools import groupby
from typing import Any

import pytest
import trl
from datasets import Dataset
from families import FAMILIES, make_model, make_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from lexalign.config.compose import compose
from lexalign.config.schema import Data
from lexalign.data.rendering import RenderedSequence, Renderer
from lexalign.errors import DataError

ASK = "What is one plus one?"
ROW = {"prompt": ASK, "completion": "It is two."}
PAIR = {"prompt": ASK, "chosen": "It is two.", "rejected": "I cannot say."}
TALK = [
    {"role": "user", "content": "Name a river."},
    {"role": "assistant", "content": "The Elbe."},
    {"role": "user", "content": "Is it long?"},
    {"role": "assistant", "content": "Rather long."},
]
TOKENIZERS = {name: make_tokenizer(name) for name in FAMILIES}


@pytest.fixture(scope="module")
def data() -> Data:
    return compose(["stage=align", "method=gdpo", "model=tiny"]).experiment.data


@pytest.fixture(scope="module")
def plain_data(data) -> Data:
    return dataclasses.replace(data, beliefs=None, columns=dataclasses.replace(data.columns, belief=None))


def render_trained(renderer: Renderer, sequence: RenderedSequence) -> list[str]:
    """The runs of trained tokens as texts."""
    runs = groupby(zip(sequence.ids, sequence.trained, strict=True), key=lambda pair: pair[1])
    return [renderer.tokenizer.decode([token for token, _ in run]) for trained, run in runs if trained]


def is_without_tail(renderer: Renderer, ids: list[int], whole: list[int]) -> bool:
    """Whether `whole` goes on from `ids`, which end with an end token, with nothing but white space or special tokens."""
    rest = renderer.tokenizer.decode([token for token in whole[len(ids) :] if token not in renderer.special_tokens])
    return whole[: len(ids)] == ids and ids[-1] in renderer.end_tokens and not rest.strip()


def make_trl_rows(row: dict[str, Any], *, chat: bool) -> Dataset:
    """A row in TRL's layout."""
    if not chat:
        return Dataset.from_list([row])
    turns = {name: [{"role": "user" if name == "prompt" else "assistant", "content": text}] for name, text in row.items()}
    return Dataset.from_list([turns])


def make_trl_settings(kind: Any, folder: Any, **more: Any) -> Any:
    """Settings of a TRL trainer that is made only for its tokens."""
    return kind(output_dir=str(folder), use_cpu=True, bf16=False, report_to=[], max_length=None, **more)


@pytest.mark.parametrize("family", [*FAMILIES, None])
def test_sft_trains_the_ids_that_trl_trains(family, plain_data, tmp_path):
    tokenizer = TOKENIZERS[family] if family else make_tokenizer(None, adds="bos")
    trainer = trl.SFTTrainer(
        make_model(tokenizer), args=make_trl_settings(trl.SFTConfig, tmp_path), processing_class=tokenizer,
        train_dataset=make_trl_rows(ROW, chat=family is not None),
    )  # fmt: skip
    theirs = trainer.train_dataset[0]
    renderer = Renderer(tokenizer, plain_data)
    ours = renderer.render_answer(ROW)
    mask = theirs.get("completion_mask") or [int(label != -100) for label in theirs["labels"]]
    assert is_without_tail(renderer, ours.ids, list(theirs["input_ids"]))
    assert ours.trained == [bool(trained) for trained in mask[: len(ours.ids)]]


@pytest.mark.parametrize("family", [*FAMILIES, None])
def test_dpo_trains_the_ids_that_trl_trains(family, plain_data, tmp_path):
    tokenizer = TOKENIZERS[family] if family else make_tokenizer(None, adds="bos")
    trainer = trl.DPOTrainer(
        make_model(tokenizer), ref_model=make_model(tokenizer), args=make_trl_settings(trl.DPOConfig, tmp_path), processing_class=tokenizer,
        train_dataset=make_trl_rows(PAIR, chat=family is not None),
    )  # fmt: skip
    theirs = trainer.train_dataset[0]
    renderer = Renderer(tokenizer, plain_data)
    chosen, rejected = renderer.render_pair(PAIR, shared_belief=True)
    assert chosen.context == rejected.context == theirs["prompt_ids"]
    assert is_without_tail(renderer, chosen.response, theirs["chosen_ids"])
    assert is_without_tail(renderer, rejected.response, theirs["rejected_ids"])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_conversation_is_what_trl_makes_of_it_with_its_answers_trained(family, plain_data):
    renderer = Renderer(TOKENIZERS[family], plain_data)
    whole = renderer.tokenizer.apply_chat_template(TALK, return_dict=False)
    row = {"messages": TALK}
    sequence = renderer.render_answer(row)
    assert sequence.ids == whole == Renderer(TOKENIZERS[family], plain_data, loss_on="all").render_answer(row).ids
    first, second = render_trained(renderer, sequence)
    for text, answer in ((first, "The Elbe."), (second, "Rather long.")):
        before, after = text.split(answer)
        assert "river" not in text and "user" not in after and "Is it" not in after
        assert renderer.ids(after)[-1:] and set(renderer.ids(after)) <= renderer.special_tokens, "an answer is trained with its end"
    (last,) = render_trained(renderer, Renderer(TOKENIZERS[family], plain_data, loss_on="last_turn").render_answer(row))
    assert last == second


EXPECTED = {
    "qwen3": ("<think>\n\n</think>\n\nIt is two.<|im_end|>", ["The Elbe.<|im_end|>", "<think>\n\n</think>\n\nRather long.<|im_end|>"]),
    "deepseek_r1_distill": ("It is two.<｜end▁of▁sentence｜>", ["The Elbe.<｜end▁of▁sentence｜>", "Rather long.<｜end▁of▁sentence｜>"]),
    "gemma": ("It is two.<end_of_turn>", ["The Elbe.<end_of_turn>", "Rather long.<end_of_turn>"]),
    "mistral": (" It is two.</s>", [" The Elbe.</s>", " Rather long.</s>"]),
    "cohere2": (
        "It is two.<|END_RESPONSE|><|END_OF_TURN_TOKEN|>",
        ["The Elbe.<|END_RESPONSE|><|END_OF_TURN_TOKEN|>", "Rather long.<|END_RESPONSE|><|END_OF_TURN_TOKEN|>"],
    ),
    "gptoss": (
        "<|channel|>final<|message|>It is two.<|return|>",
        ["<|channel|>final<|message|>The Elbe.<|end|>", "<|channel|>final<|message|>Rather long.<|return|>"],
    ),
    "phi3": ("It is two.<|end|>", ["The Elbe.<|end|>", "Rather long.<|end|>"]),
    "chatml": ("It is two.<|im_end|>", ["The Elbe.<|im_end|>", "Rather long.<|im_end|>"]),
}


@pytest.mark.parametrize("family", EXPECTED)
def test_what_is_trained_in_words(family, plain_data):
    renderer = Renderer(TOKENIZERS[family], plain_data)
    answer, turns = EXPECTED[family]
    assert render_trained(renderer, renderer.render_answer(ROW)) == [answer]
    assert render_trained(renderer, renderer.render_pair(PAIR, shared_belief=False)[0]) == [answer]
    assert render_trained(renderer, renderer.render_answer({"messages": TALK})) == turns


@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_is_asked_behind_what_it_was_trained_behind(family, plain_data):
    renderer = Renderer(TOKENIZERS[family], plain_data)
    sequence = renderer.render_answer(ROW)
    differs = bool(renderer.changes.counts.get("prompt_differs"))
    renderer.cuts_prompt = differs  # what the lengths pass settles
    assert renderer.render_prompt(ASK) == sequence.context
    assert renderer.tokenizer(renderer.render_prompt_text(ASK), add_special_tokens=False)["input_ids"] == sequence.context
    untrained = Renderer(TOKENIZERS[family], plain_data)
    whole = untrained.tokenizer.apply_chat_template([{"role": "user", "content": ASK}], add_generation_prompt=True, return_dict=False)
    assert untrained.render_prompt(ASK) == whole, "a model that was not trained here is asked behind the template's own prompt"
    assert differs == (whole != sequence.context)


@pytest.mark.parametrize("family", FAMILIES)
def test_beliefs_stand_behind_what_the_template_writes_before_an_answer(family, data):
    renderer = Renderer(TOKENIZERS[family], data)
    row = {**PAIR, "belief": 2, "rejected_belief": 4}
    chosen, rejected = renderer.render_pair(row, shared_belief=True)
    assert chosen.context == rejected.context == renderer.render_prompt(ASK)
    assert chosen.belief == rejected.belief == renderer.ids(renderer.belief_text(2))
    assert renderer.tokenizer.decode(chosen.response).startswith("It is two.") and chosen.response[-1] in renderer.end_tokens
    assert chosen.trained == [False] * len(chosen.context) + [True] * (len(chosen.belief) + len(chosen.response))
    ours, others = renderer.render_pair(row, shared_belief=False)
    assert ours.belief == others.belief == [] and ours.context == others.context
    assert renderer.belief_text(2) + "It is two." in renderer.tokenizer.decode(ours.response)
    assert renderer.belief_text(4) + "I cannot say." in renderer.tokenizer.decode(others.response)


TEXTS = st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1, max_size=30).map(str.strip).filter(
    lambda text: text and not any(mark in text for mark in "<>|｜")
)  # fmt: skip
WEIGHTS = st.sampled_from([0.0, 0.5, 1.0, 2.0])


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(TEXTS, min_size=2, max_size=8), weights=st.lists(WEIGHTS, min_size=4, max_size=4), family=st.sampled_from(FAMILIES))
def test_each_turn_has_its_own_weight_and_the_ids_none(plain_data, texts, weights, family):
    texts = texts[: len(texts) // 2 * 2]
    turns = [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(texts)]
    weighed = [{**turn, "weight": weights[at // 2]} if at % 2 else turn for at, turn in enumerate(turns)]
    renderer = Renderer(TOKENIZERS[family], plain_data)
    bare, sequence = renderer.render_answer({"messages": turns}), renderer.render_answer({"messages": weighed})
    assert bare.ids == sequence.ids == renderer.tokenizer.apply_chat_template(turns, return_dict=False)
    spans = [len(list(run)) for trained, run in groupby(bare.trained) if trained]
    assert len(spans) == len(turns) // 2, "every answer is a span of its own"
    offset = len(sequence.ids) - len(sequence.response_weights)
    assert not any(bare.trained[:offset]) or all(weight == 0 for weight in weights[: len(spans)][:1])
    wanted, span, inside = [], -1, False
    for trained in bare.trained:
        span += trained and not inside
        inside = trained
        wanted.append(weights[span] if trained else 0.0)
    assert [0.0] * offset + sequence.response_weights == wanted


@settings(max_examples=40, deadline=None)
@given(prompt=TEXTS, answer=TEXTS, family=st.sampled_from([*FAMILIES, None]))
def test_context_and_response_are_the_text_of_the_row(plain_data, prompt, answer, family):
    renderer = Renderer(TOKENIZERS[family] if family else make_tokenizer(None, adds="bos"), plain_data)
    sequence = renderer.render_answer({"prompt": prompt, "completion": answer})
    text = renderer.tokenizer.decode(sequence.ids)
    assert prompt in text and answer in renderer.tokenizer.decode(sequence.response)
    assert sequence.response[-1] in renderer.end_tokens
    assert not renderer.changes.counts.get("dropped") and not renderer.changes.counts.get("unseen")
    cut = sequence.cut(len(sequence.context) + 1)
    assert cut.ids == sequence.ids[: len(sequence.context) + 1] and cut.response == sequence.response[:1]


def test_marks_are_found_as_jinja_finds_them(plain_data):
    source = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% else %}@{{ m.content }}#@{% endif %}{% endfor %}"
    for opening, closing in (("{% generation %}", "{% endgeneration %}"), ("{%-   generation -%}", "{%- endgeneration +%}"),
                             ("{%-\ngeneration\n%}", "{% endgeneration %}")):  # fmt: skip
        tokenizer = make_tokenizer(None)
        tokenizer.chat_template = source.replace("@{{", opening + "{{").replace("#@", "</s>" + closing)
        renderer = Renderer(tokenizer, plain_data)
        assert renderer.template.has_marks() and "generation marks" in renderer.describe_loss_on({"messages": TALK})
        sequence = renderer.render_answer({"messages": [{**TALK[0]}, {**TALK[1], "weight": 0.0}, *TALK[2:]]})
        assert render_trained(renderer, sequence) == ["Rather long.</s>"]
        assert render_trained(renderer, renderer.render_answer({"messages": TALK})) == ["The Elbe.</s>", "Rather long.</s>"]
    tokenizer.chat_template = source.replace("@", "").replace("#", "</s>") + "{# {% generation %} #}"
    assert not Renderer(tokenizer, plain_data).template.has_marks()


@pytest.mark.parametrize(
    ("loss_on", "row", "trained"),
    [
        ("auto", ROW, ["It is two.<end_of_turn>"]),
        ("all", ROW, ["<s><start_of_turn>user\nWhat is one plus one?<end_of_turn>\n<start_of_turn>model\nIt is two.<end_of_turn>\n"]),
        ("completion", {"messages": TALK}, ["Rather long.<end_of_turn>"]),
        ("assistant", {"prompt": TALK[:3], "completion": "Yes."}, ["The Elbe.<end_of_turn>", "Yes.<end_of_turn>"]),
        ("last_turn", {"prompt": TALK[:3], "completion": "Yes."}, ["Yes.<end_of_turn>"]),
        ("auto", {"text": "As it stands."}, ["As it stands.<eos>"]),
    ],
)
def test_what_loss_on_trains(plain_data, loss_on, row, trained):
    renderer = Renderer(TOKENIZERS["gemma"], plain_data, loss_on=loss_on)
    assert render_trained(renderer, renderer.render_answer(row)) == trained


def test_a_turn_that_cannot_be_told_is_refused_with_its_place(plain_data):
    tokenizer = make_tokenizer(None)
    tokenizer.chat_template = "{{ messages[-1].content }}</s>"  # what came before is not written at all
    with pytest.raises(DataError, match="type method.loss_on=last_turn"):
        Renderer(tokenizer, plain_data).render_answer({"messages": TALK})
