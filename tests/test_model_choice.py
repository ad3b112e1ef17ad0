"""Values tuned for the embedded model hold for it and for what was trained from it, and for no other model."""

import json
from pathlib import Path

import pytest

from lexalign.config.compose import compose
from lexalign.config.loading import CONF_ONLY
from lexalign.config.model_choice import follow_model
from lexalign.config.origins import DECIDING, explain, find_origins
from lexalign.errors import ConfigError

ROWS = "data.path=embedded:tiny_sft"
OTHER = "model.path=HuggingFaceTB/SmolLM2-135M-Instruct"


def make_run(folder: Path, base: str) -> Path:
    """A folder that looks like the run of an adapter on `base`."""
    artifact = folder / "artifact"
    artifact.mkdir(parents=True)
    (artifact / "manifest.json").write_text(json.dumps({"kind": "adapter", "base": {"path": base}, "files": {}}))
    return folder


def test_a_path_alone_means_another_model():
    mine = compose(["stage=sft", OTHER, "data=instructions", ROWS]).experiment
    embedded = compose(["stage=sft"]).experiment
    assert embedded.train.learning_rate == 3e-3 and embedded.hardware.threads == 1
    assert mine.train.learning_rate == 2e-4 and mine.train.epochs == 1 and mine.hardware.threads is None
    assert mine.model.path == OTHER.partition("=")[2]


@pytest.mark.parametrize("method", ["dpo", "gdpo", "simpo"])
def test_aligning_ones_own_model_takes_no_more_words(method):
    composition = compose(["stage=align", f"method={method}", OTHER])
    assert composition.experiment.model.parent is None and composition.experiment.train.learning_rate < 1e-4
    assert composition.typed == ("stage=align", f"method={method}", OTHER), "what was typed is recorded as it was typed"


def test_an_option_that_another_path_contradicts_is_said():
    composition = compose(["stage=align", "model=tiny", OTHER])
    assert composition.experiment.model.path == OTHER.partition("=")[2]
    assert any("another model than model=tiny" in note for note in composition.notes)


def test_what_was_trained_from_the_embedded_model_keeps_its_values(tmp_path):
    run = make_run(tmp_path / "first", "embedded:tiny")
    second = make_run(tmp_path / "second", str(run))
    for path in (run, second):
        adjusted, notes = follow_model(["stage=align", "method=gdpo", f"model.path={path}"], CONF_ONLY)
        assert adjusted[-2:] == ["model=none", "tuned=tiny_sft_gdpo"] and "tuned=tiny_sft_gdpo" in notes[0]


def test_a_run_of_another_base_takes_no_tuned_values(tmp_path):
    run = make_run(tmp_path / "run", "HuggingFaceTB/SmolLM2-135M-Instruct")
    adjusted, notes = follow_model(["stage=align", "method=gdpo", f"model.path={run}"], CONF_ONLY)
    assert adjusted[-1] == "model=none" and notes == []


def test_the_default_is_left_alone():
    for overrides in (["stage=sft"], ["stage=align", "method=gdpo"], ["stage=evaluate", OTHER], ["stage=align", "model=smollm2_135m"]):
        assert follow_model(overrides, CONF_ONLY) == (overrides, [])


def test_two_models_are_refused_still():
    with pytest.raises(ConfigError, match="model.parent=tiny/sft"):
        compose(["stage=align", OTHER, "model.parent=tiny/sft"])


def test_each_value_says_where_it_was_set():
    overrides = ["stage=align", "method=gdpo", "method.beta=2"]
    where = {origin.key: origin.where for origin in find_origins(DECIDING, overrides, CONF_ONLY)}
    assert where["method.beta"] == "typed" and where["train.learning_rate"] == "tuned=tiny_sft_gdpo"
    assert where["train.max_length"] == "default" and where["adapter.rank"] == "adapter=lora"
    mine = {origin.key: origin.where for origin in find_origins(DECIDING, [*overrides, OTHER], CONF_ONLY)}
    assert mine["train.learning_rate"] == "method=gdpo" and mine["train.epochs"] == "default"
    experiment = find_origins(["train.learning_rate"], ["experiment=smollm2/reasoning"], CONF_ONLY)
    assert str(experiment[0]) == "train.learning_rate=5e-05 (experiment=smollm2/reasoning)"


def test_one_setting_is_explained_with_what_the_other_files_say():
    text = explain("train.learning_rate", ["stage=align", "method=gdpo", "train.learning_rate=1e-4"], CONF_ONLY)
    assert text is not None and text.splitlines()[0] == "train.learning_rate=0.0001 (typed)"
    assert "tuned=tiny_sft_gdpo says 0.003" in text and "method=gdpo says 5e-06" in text
    assert explain("train.learning_rat", [], CONF_ONLY) is None
