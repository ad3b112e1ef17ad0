"""What a run refuses or says of its rendering: templates that lose or refuse rows, tokens and positions a model lacks, ends, dates."""

import dataclasses
import datetime
import json
import logging
import shutil
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from families import make_model, make_tokenizer
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel

from lexalign.cache.cache import ContentCache
from lexalign.cache.tokens import TokenCache
from lexalign.config.compose import compose
from lexalign.data import chat_template, lengths
from lexalign.data.rendering import Renderer
from lexalign.data.rows import PlacedRow, Splits
from lexalign.errors import ConfigError, DataError
from lexalign.evaluation import likelihood
from lexalign.evaluation.evaluator import Evaluator, Measurement
from lexalign.evaluation.scoring import generate, score_responses
from lexalign.models import generation, renderers
from lexalign.models.limits import ModelLimits
from lexalign.rewards.reasoning import strip_reasoning
from lexalign.training.preflight import prompts

THOUGHT = "<think>\nI add.\n</think>\n\nIt is two."


def place(number: int, **row: Any) -> PlacedRow:
    """A row that knows its line."""
    placed = PlacedRow(**row)
    placed.where = f"rows.jsonl:{number}"
    return placed


@pytest.fixture(scope="module")
def experiment():
    return compose(["stage=sft", "model=tiny"]).experiment


@pytest.fixture(scope="module")
def data(experiment):
    return experiment.data


def test_reasoning_that_a_template_drops_is_refused_until_allowed(data, tmp_path, caplog):
    rows = [place(at, prompt=f"Question {at}?", completion=THOUGHT) for at in (1, 2)]
    tokenizer = make_tokenizer("deepseek_r1_distill")
    with pytest.raises(DataError, match="leaves out text of the answer, 2 times; first: rows.jsonl:1.*allow_template_changes=true"):
        TokenCache(ContentCache(tmp_path / "tokens", max_bytes=1 << 30), Renderer(tokenizer, data)).lengths(rows)
    allowed = dataclasses.replace(data, allow_template_changes=True)
    for _ in range(2):
        caplog.clear()
        renderer = Renderer(tokenizer, allowed)
        cache = TokenCache(ContentCache(tmp_path / "tokens", max_bytes=1 << 30), renderer)
        with caplog.at_level(logging.INFO):
            measured = cache.lengths(rows)
        assert (cache.made, cache.reused) == (0, 2)
        assert "leaves out text of the answer" in caplog.text, "also when a cache served the rows"
        assert renderer.cuts_prompt and measured[0].prompt == len(renderer.render_prompt("Question 1?"))
        assert not renderer.render_prompt_text("Question 1?").endswith("<think>\n")


def test_a_template_that_refuses_a_turn_names_the_row_and_counts_all(data):
    talk = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    strict = [{"role": "system", "content": "s"}, *talk]
    rows = [place(1, messages=talk), place(2, messages=strict), place(3, messages=strict)]
    with pytest.raises(DataError, match=r"refuses 2 rows; first: rows.jsonl:2: .*System role not supported.*data.chat_template=<file>"):
        lengths.measure_one_by_one(Renderer(make_tokenizer("gemma"), data))(rows)


def test_ids_and_positions_that_a_model_lacks_are_refused(data, caplog):
    tokenizer = make_tokenizer("chatml")
    tokenizer.add_tokens(["<city>"])
    small = make_model(tokenizer, vocabulary=len(tokenizer) - 1)
    renderer = Renderer(tokenizer, data)
    splits = Splits(train=[place(1, prompt="q", completion="a"), place(2, prompt="Where is <city>?", completion="a")], held_out=[])
    with pytest.raises(DataError, match=r"1 rows hold a token without one; rows.jsonl:2 holds <city>"):
        look = renderers.make_limit_check(small, renderer, max_length=64)
        lengths.fit_lengths(splits, lengths.measure_one_by_one(renderer), max_length=64, look=look)
    assert "The tokenizer has" in caplog.text and "embeddings of" in caplog.text
    learned = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_positions=16, n_embd=16, n_layer=1, n_head=2))
    assert ModelLimits.read(learned).learned_positions == 16 and ModelLimits.read(small).learned_positions is None
    long = Splits(train=[place(1, prompt="q " * 30, completion="a")], held_out=[])
    look = renderers.make_limit_check(learned, renderer, max_length=512)
    with pytest.raises(DataError, match="has learned 16 positions.*type train.max_length=16"):
        lengths.fit_lengths(long, lengths.measure_one_by_one(renderer), max_length=512, look=look)
    rotary = make_model(tokenizer)
    rotary.config.max_position_embeddings = 16
    look = renderers.make_limit_check(rotary, renderer, max_length=512)
    lengths.fit_lengths(long, lengths.measure_one_by_one(renderer), max_length=512, look=look)
    assert "more than the 16 positions that the model was made for" in caplog.text


def test_no_end_and_ends_around_every_text_are_refused(data):
    without = make_tokenizer(None, eos=None)
    with pytest.raises(DataError, match="has no EOS token, so no answer would have an end"):
        Renderer(without, data).render_answer({"prompt": "q", "completion": "a"})
    adding = Renderer(make_tokenizer(None, adds="bos eos"), data)
    with pytest.raises(DataError, match=r"writes </s> after every text .* add_eos_token"):
        renderers.check_rendering(adding, Splits(train=[{"prompt": "q", "completion": "a"}], held_out=[]))
    sequence = adding.render_answer({"text": "as it stands"})
    eos = adding.tokenizer.eos_token_id
    assert [at for at, token in enumerate(sequence.ids) if token == eos] == [len(sequence.ids) - 1], "one EOS, at the end"
    renderers.check_rendering(adding, Splits(train=[{"text": "t"}], held_out=[]))


def test_prompts_that_hold_an_end_or_a_bos_are_refused(data):
    renderer = Renderer(make_tokenizer("gemma"), data)
    rows = [
        place(1, prompt="q", completion="a"),
        place(2, prompt="q <end_of_turn> r", completion="a"),
        place(3, prompt="<s>q", completion="a"),
    ]
    (problem,) = prompts.find_ended_prompts(rows, renderer, allowed=0.5)
    assert "2 of 3 training rows" in problem and "rows.jsonl:2 holds <end_of_turn>; rows.jsonl:3 holds <s>" in problem
    assert "preflight.max_ended_prompts=0.67" in problem and not prompts.find_ended_prompts(rows, renderer, allowed=0.67)
    assert not prompts.find_ended_prompts([place(1, prompt="q", completion="a <end_of_turn>")], renderer, allowed=0.0)


def test_the_template_takes_one_recorded_day_for_today(data):
    tokenizer = make_tokenizer("llama3_2")
    first, second = (Renderer(tokenizer, dataclasses.replace(data, template_date=day)) for day in ("2026-11-29", "2026-11-30"))
    texts = [renderer.tokenizer.decode(renderer.render_prompt("q")) for renderer in (first, second)]
    assert "Today Date: 29 Nov 2026" in texts[0] and texts[1] == texts[0].replace("29 Nov", "30 Nov")
    assert first.settings()["template_date"] == "2026-11-29" != second.settings()["template_date"]
    assert Renderer(tokenizer, data).template_date == datetime.date.today().isoformat()
    timeless = Renderer(make_tokenizer("qwen3"), dataclasses.replace(data, template_date="2026-11-29"))
    assert timeless.template_date is None and "template_date" not in timeless.settings()


def test_a_template_of_ones_own_takes_the_place_of_the_tokenizers(data, tmp_path):
    path = tmp_path / "own.jinja"
    path.write_text(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    )
    tokenizer = make_tokenizer("qwen3")
    chat_template.set_template(tokenizer, str(path))
    renderer = Renderer(tokenizer, dataclasses.replace(data, chat_template=str(path)))
    assert tokenizer.decode(renderer.render_answer({"prompt": "q", "completion": "a"}).ids) == "user: q</s>assistant: a</s>"
    with pytest.raises(ConfigError) as refusal:
        compose(["stage=sft", "model=tiny", "data.chat_template=/no/such/file", "data.template_date=soon"])
    assert "data.chat_template=/no/such/file: is no file" in str(refusal.value)
    assert "data.template_date=soon: is no day" in str(refusal.value)


def test_answers_end_where_the_template_ends_a_turn(data, tmp_path):
    tokenizer = make_tokenizer("chatml")
    model, renderer = make_model(tokenizer), Renderer(tokenizer, data)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert tokenizer.eos_token == "</s>" and renderer.end()[0] == end
    assert renderer.end_tokens == {end, tokenizer.eos_token_id}
    renderers.settle_end_tokens(model, renderer)
    model.generation_config.save_pretrained(tmp_path)
    assert sorted(json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"]) == sorted(renderer.end_tokens)
    more = make_model(tokenizer)
    more.generation_config.eos_token_id = [7]
    other = Renderer(tokenizer, data)
    renderers.settle_end_tokens(more, other)
    assert generation.read_end_tokens(more) == other.end_tokens == renderer.end_tokens | {7}
    context = renderer.render_prompt("q")
    free = generate(model, tokenizer, [context], ends=[], batch_size=1, max_new_tokens=6)[0]
    assert len(free) == 6
    assert generate(model, tokenizer, [context], ends=[free[2]], batch_size=1, max_new_tokens=6)[0] == free[: free.index(free[2]) + 1]


def test_a_models_generation_config_does_not_change_how_it_is_drawn(data):
    tokenizer = make_tokenizer("chatml")
    model, renderer = make_model(tokenizer), Renderer(tokenizer, data)
    contexts = [renderer.render_prompt(f"question {at}") for at in range(3)]

    def draw() -> list[list[int]]:
        torch.manual_seed(0)
        ends = renderer.end_tokens
        return [
            ids
            for sample in (False, True)
            for ids in generate(model, tokenizer, contexts, ends=ends, batch_size=2, max_new_tokens=8, sample=sample)
        ]

    plain = draw()
    strange = GenerationConfig(repetition_penalty=5.0, num_beams=3, min_p=0.9, no_repeat_ngram_size=1, eos_token_id=tokenizer.eos_token_id)
    model.generation_config = strange
    assert draw() == plain and model.generation_config is strange
    assert {"repetition_penalty", "num_beams", "min_p"} <= set(generation.list_ignored_settings(model))


def test_exact_match_compares_without_reasoning(experiment, data):
    assert strip_reasoning(THOUGHT) == "It is two." == strip_reasoning("I add.\n</think>\n\nIt is two.")
    assert strip_reasoning("It is two.") == "It is two." and strip_reasoning("<think>\nnever ends") == ""
    renderer = Renderer(make_tokenizer("qwen3"), data)
    rows = [{"prompt": "q", "completion": "It is two."}]
    for strip, wanted in ((True, 1.0), (False, 0.0)):
        evaluator = Evaluator(
            encoder=renderer, rows=rows, known=rows, max_length=64, settings=dataclasses.replace(experiment.evaluate, strip_reasoning=strip)
        )
        answer = renderer.ids(THOUGHT) + [renderer.end()[0]]
        evaluator.generate = lambda model, contexts, most, answer=answer: [answer]  # type: ignore[assignment,misc]
        measurement = Measurement()
        likelihood.measure_exact_match(evaluator, torch.nn.Module(), measurement)
        assert measurement.values["exact_match"] == wanted
        assert measurement.counts.get("reasoning_stripped_answers", 0) == strip


def test_scores_weigh_the_tokens_that_are_trained(data):
    renderer = Renderer(make_tokenizer("qwen3"), data)
    model = make_model(renderer.tokenizer)
    talk = [{"role": ("user", "assistant")[at % 2], "content": f"turn {at}"} for at in range(4)]
    sequence = renderer.render_answer({"messages": [talk[0], {**talk[1], "weight": 0.5}, *talk[2:]]})
    with torch.no_grad():
        log_probs = model(torch.tensor([sequence.ids])).logits[0, :-1].log_softmax(-1)
    each = log_probs.gather(-1, torch.tensor(sequence.ids)[1:, None])[:, 0].tolist()
    weights = [0.0] * len(sequence.context) + sequence.response_weights
    wanted = sum(weight * value for weight, value in zip(weights[1:], each, strict=True))
    ((total, count),) = score_responses(model, [sequence], batch_size=1, max_length=512)
    assert total == pytest.approx(wanted, rel=1e-5) and count == pytest.approx(sum(weights)) and 0.5 in weights
    ((total, count),) = score_responses(model, [sequence], batch_size=1, max_length=len(sequence.ids) - 3)
    assert count == pytest.approx(sum(weights[:-3]))


def test_what_is_recorded_is_how_the_model_is_spoken_to(experiment, tmp_path, monkeypatch):
    tokenizer = make_tokenizer("llama3_2")
    recorded = {"template_date": "2020-02-29", "cuts_prompt": True, "end_tokens": [9]}
    past = SimpleNamespace(manifest={"rendering": recorded}, setting=lambda *names: None, rewards={})
    monkeypatch.setattr(renderers.Provenance, "read", lambda path: past)
    measured = dataclasses.replace(experiment, stage=dataclasses.replace(experiment.stage, name="evaluate"))
    renderer = renderers.make_renderer(measured, tokenizer, model=make_model(tokenizer))
    assert renderer.template_date == "2020-02-29" and renderer.cuts_prompt and 9 in renderer.end_tokens
    assert renderers.make_renderer(experiment, tokenizer).template_date == datetime.date.today().isoformat(), "a new run is of today"
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps({"rendering": recorded}))
    going_on = dataclasses.replace(experiment, resume=str(folder))
    assert renderers.make_renderer(going_on, tokenizer).template_date == "2020-02-29"
    shutil.rmtree(folder)
    assert renderers.record_rendering(renderer)["template_date"] == "2020-02-29"
