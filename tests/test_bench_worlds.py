"""The data sets that bench/gdpo.py makes load as a user's would and hold what the bench says they do; the gates name what fails where."""

import re
import statistics
import sys
from itertools import islice
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bench"))
import flow
from gdpo_parts import beliefs, choice, labels, worlds
from gdpo_parts.runs import Desk

from lexalign.config.compose import compose
from lexalign.config.paths import EMBEDDED
from lexalign.data import rows
from lexalign.embedded.tasks import PREFERENCES
from lexalign.embedded.world import documents, make_people


@pytest.fixture(scope="module")
def animals(tmp_path_factory) -> worlds.World:
    return worlds.make_animals(tmp_path_factory.mktemp("animals") / "here")


@pytest.mark.parametrize("arm", beliefs.ARMS)
def test_every_arm_composes_and_reads_the_second_world(animals, arm):
    experiment = compose(["stage=align", *beliefs.settings(animals, arm)]).experiment
    splits = rows.load_rows(experiment)
    assert splits.counts["overlapping_prompts"] == splits.counts["shares_estimated"] == 0
    assert len({row["prompt"] for row in splits.train}) == 72 and len({row["prompt"] for row in splits.held_out}) == 24
    assert len({tuple(row["probabilities"]) for row in splits.train}) == worlds.QUESTIONS
    if "belief" in splits.train[0]:
        assert {row["belief"] for row in splits.train} == set(range(len(worlds.BELIEFS)))


def test_a_beta_for_every_arm_that_prefers(animals):
    for world in (animals, worlds.get_embedded()):
        assert set(world.betas) == set(worlds.WITH_BETA) == {arm for arm in beliefs.ARMS if not arm.startswith("calibration")}
    assert set(animals.betas.values()) <= set(choice.BETAS)


def test_rows_that_choose_the_beta_are_training_rows(animals):
    tested = {row["prompt"] for row in rows.load_rows(compose(["stage=align", "method=gdpo", *animals.overrides]).experiment).held_out}
    splits = rows.load_rows(compose(["stage=align", "method=gdpo", *choice.list_overrides_apart(animals.overrides)]).experiment)
    looked_at = {row["prompt"] for row in splits.held_out}
    assert len(looked_at) == round(72 * 0.2) and not looked_at & (tested | {row["prompt"] for row in splits.train})


def test_two_of_five_sentences_of_the_second_worlds_sft_are_another_beliefs():
    spoken = [row["completion"] for row in worlds.make_opinions(worlds.list_topics())]
    slips = 0
    for text in spoken:
        ours = worlds.WORDINGS[int(text[0])]
        slips += not any(re.search(re.escape(wording).replace(r"\{t\}", ".*"), text, re.IGNORECASE) for wording in ours)
    assert slips / len(spoken) == pytest.approx(worlds.SLIPS, abs=0.04)


@pytest.mark.slow
def test_the_second_world_passes_the_gate(animals, tmp_path):
    """On seed 0, with fewer samples; the bench asks it of three seeds."""
    desk = Desk(tmp_path, tmp_path / "store")
    arms = ("dpo", "gdpo")
    found = {arm: [desk.run(*beliefs.settings(animals, arm), "seed=0", "evaluate.belief_samples=8")[0]["after"]] for arm in arms}
    assert beliefs.find_failures(found, [0]) == []


def test_the_second_worlds_sft_tells_nothing_of_the_shares(animals):
    folder = Path(animals.overrides[1].removeprefix("data.path=")).parent / "sft"
    sft = compose([f"data.path={folder}"]).experiment
    train = rows.load_rows(sft).train
    opinions = [row for row in train if row["completion"][0].isdigit()]
    told = [row["completion"].partition("<")[0] for row in opinions]
    assert [told.count(str(belief)) for belief in range(4)] == [worlds.SFT_QUESTIONS * worlds.PHRASINGS_A_TOPIC] * 4
    asked = worlds.list_topics()[: worlds.QUESTIONS]
    assert len(train) > len(opinions) and not any(topic in row["prompt"] for row in opinions for topic in asked)


def test_pre_training_has_read_every_token_that_the_second_world_writes():
    """What it never read, no adapter teaches the model to write."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED / "tiny")
    read = {token for tokens in tokenizer(list(islice(documents(make_people()), 3000)))["input_ids"] for token in tokens}
    texts = {row["completion"] for row in worlds.make_opinions(worlds.list_topics())}
    unread = {tokenizer.decode([token]) for text in texts for token in tokenizer(text)["input_ids"] if token not in read}
    assert texts and not unread


@pytest.mark.parametrize("judges", labels.JUDGES)
def test_labels_are_shares_of_judges_with_the_majoritys_choice_first(judges, tmp_path):
    folder, shares = labels.make_data_set(tmp_path / "labels", judges, seed=0)
    splits = rows.load_rows(compose(["stage=align", "method=gdpo_soft", "data=tiny_soft", f"data.path={folder}"]).experiment)
    assert [row["soft_label"] for row in splits.held_out] == shares and set(shares) == set(PREFERENCES.values())
    drawn = [row["soft_label"] for row in splits.train]
    assert min(drawn) >= 0.5 and all(round(label * judges, 9) == round(label * judges) for label in drawn)
    assert statistics.mean(drawn) == pytest.approx(statistics.mean(PREFERENCES.values()), abs=0.06)


def test_the_gate_of_the_beliefs_names_the_seed_and_what_fails_on_it():
    dpo = {"belief_jsd": 0.40, "belief_consistency": 0.5}
    arms = [{"belief_jsd": 0.19, "belief_consistency": 0.6}, {"belief_jsd": 0.20, "belief_consistency": 0.6}]
    assert beliefs.find_failures({"dpo": [dpo], "gdpo": arms[:1]}, [7]) == []
    tied = {"belief_jsd": 0.19, "belief_consistency": 0.5}
    found = beliefs.find_failures({"dpo": [dpo, dpo, dpo], "gdpo": [*arms, tied]}, [7, 8, 9])
    assert [(seed, problem.split(" of gdpo")[0]) for seed, problem in found] == [(8, "JSD"), (9, "consistency")]


@pytest.mark.parametrize("measure", ["nats a token", "nats a response", "preferred share"])
def test_the_gate_of_the_flow_asks_for_entropy_and_for_preference(measure):
    before = {"preferred share": 0.7, "nats a token": 2.0, "nats a response": 20.0}
    dpo = {"preferred share": 0.9, "nats a token": 0.4, "nats a response": 4.0}
    good = {"preferred share": 0.8, "nats a token": 0.5, "nats a response": 5.0}
    assert flow.find_failures(before, {"dpo": [dpo], flow.GATED: [good]}, [3]) == []
    bound = before if measure == "preferred share" else dpo
    (problem,) = flow.find_failures(before, {"dpo": [dpo, dpo], flow.GATED: [good, {**good, measure: bound[measure]}]}, [3, 4])
    assert problem.startswith(f"seed 4: {measure} of gdpo_flow")
