"""The data sets that bench/gdpo.py makes load as a user's would and hold what the bench says they do; the gates name what fails where."""

import statistics
import sys
from itertools import islice
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bench"))
import flow
from gdpo_parts import beliefs, labels, worlds

from lexalign.compose import compose
from lexalign.data import rows
from lexalign.embedded.tasks import PREFERENCES
from lexalign.embedded.world import documents, make_people
from lexalign.locate import EMBEDDED


@pytest.fixture(scope="module")
def animals(tmp_path_factory) -> worlds.World:
    return worlds.animals(tmp_path_factory.mktemp("animals") / "here")


@pytest.mark.parametrize("arm", beliefs.ARMS)
def test_every_arm_composes_and_reads_the_second_world(animals, arm):
    experiment = compose(["stage=align", *animals.overrides, *beliefs.EQUAL, *beliefs.ARMS[arm]]).experiment
    splits = rows.load(experiment)
    assert splits.counts["overlapping_prompts"] == splits.counts["shares_estimated"] == 0
    assert len({row["prompt"] for row in splits.train}) == 72 and len({row["prompt"] for row in splits.held_out}) == 24
    assert len({tuple(row["probabilities"]) for row in splits.train}) == worlds.QUESTIONS
    if "belief" in splits.train[0]:
        assert {row["belief"] for row in splits.train} == set(range(len(worlds.BELIEFS)))


def test_the_second_worlds_sft_tells_nothing_of_the_shares(animals):
    folder = Path(animals.overrides[1].removeprefix("data.path=")).parent / "sft"
    sft = compose([f"data.path={folder}"]).experiment
    train = rows.load(sft).train
    opinions = [row for row in train if row["completion"][0].isdigit()]
    told = [row["completion"].partition("<")[0] for row in opinions]
    assert [told.count(str(belief)) for belief in range(4)] == [worlds.SFT_QUESTIONS * worlds.PHRASINGS_A_TOPIC] * 4
    asked = worlds.topics()[: worlds.QUESTIONS]
    assert len(train) > len(opinions) and not any(topic in row["prompt"] for row in opinions for topic in asked)


def test_pre_training_has_read_every_token_that_the_second_world_writes():
    """What it never read, no adapter teaches the model to write."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED / "tiny")
    read = {token for document in islice(documents(make_people()), 3000) for token in tokenizer(document)["input_ids"]}
    texts = {row["completion"] for row in worlds.opinions(worlds.topics())}
    unread = {tokenizer.decode([token]) for text in texts for token in tokenizer(text)["input_ids"] if token not in read}
    assert texts and not unread


@pytest.mark.parametrize("judges", labels.JUDGES)
def test_labels_are_shares_of_judges_with_the_majoritys_choice_first(judges, tmp_path):
    folder, shares = labels.data_set(tmp_path / "labels", judges, seed=0)
    splits = rows.load(compose(["stage=align", "method=gdpo_soft", "data=tiny_soft", f"data.path={folder}"]).experiment)
    assert [row["soft_label"] for row in splits.held_out] == shares and set(shares) == set(PREFERENCES.values())
    drawn = [row["soft_label"] for row in splits.train]
    assert min(drawn) >= 0.5 and all(round(label * judges, 9) == round(label * judges) for label in drawn)
    assert statistics.mean(drawn) == pytest.approx(statistics.mean(PREFERENCES.values()), abs=0.06)


def test_the_gate_of_the_beliefs_names_the_seed_and_what_fails_on_it():
    dpo = {"belief_jsd": 0.40, "belief_consistency": 0.5}
    arms = [{"belief_jsd": 0.19, "belief_consistency": 0.6}, {"belief_jsd": 0.20, "belief_consistency": 0.6}]
    assert beliefs.gate({"dpo": [dpo], "gdpo": arms[:1]}, [7]) == []
    tied = {"belief_jsd": 0.19, "belief_consistency": 0.5}
    found = beliefs.gate({"dpo": [dpo, dpo, dpo], "gdpo": [*arms, tied]}, [7, 8, 9])
    assert [(seed, problem.split(" of gdpo")[0]) for seed, problem in found] == [(8, "JSD"), (9, "consistency")]


@pytest.mark.parametrize("measure", ["nats a token", "nats a response", "preferred share"])
def test_the_gate_of_the_flow_asks_for_entropy_and_for_preference(measure):
    before = {"preferred share": 0.7, "nats a token": 2.0, "nats a response": 20.0}
    dpo = {"preferred share": 0.9, "nats a token": 0.4, "nats a response": 4.0}
    good = {"preferred share": 0.8, "nats a token": 0.5, "nats a response": 5.0}
    assert flow.gate(before, {"dpo": [dpo], flow.GATED: [good]}, [3]) == []
    bound = before if measure == "preferred share" else dpo
    (problem,) = flow.gate(before, {"dpo": [dpo, dpo], flow.GATED: [good, {**good, measure: bound[measure]}]}, [3, 4])
    assert problem.startswith(f"seed 4: {measure} of gdpo_flow")
