"""A base whose files lack weights, or hold others, is refused by the weights' names."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from lexalign.config.compose import compose
from lexalign.config.paths import find_model
from lexalign.errors import ConfigError
from lexalign.models import loading, weight_check


@pytest.fixture
def folder(tmp_path) -> Path:
    """A copy of the embedded model, whose files a test may change."""
    import shutil

    source = find_model("embedded:tiny").path
    assert source is not None
    return shutil.copytree(source, tmp_path / "model")


def load(folder: Path, *words: str):
    return loading.load_model(compose(["tracking=none", f"model.path={folder}", *words]).experiment)


def change_weights(folder: Path, change) -> None:
    (file,) = folder.glob("*.safetensors")
    weights = load_file(file)
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})


def test_a_whole_model_loads(folder):
    assert load(folder).model is not None


@pytest.mark.parametrize("words", [(), ("method=qlora",)], ids=["lora", "qlora"])
def test_missing_weights_are_refused_by_name(folder, words):
    def drop(weights):
        for name in [name for name in weights if ".layers.1." in name]:
            del weights[name]

    change_weights(folder, drop)
    with pytest.raises(
        ConfigError, match=r"model.path=.*: its files lack \d+ weights \(model.layers.1.input_layernorm.weight, .*random numbers"
    ):
        load(folder, *words)


def test_one_missing_weight_is_enough(folder):
    change_weights(folder, lambda weights: weights.pop("model.norm.weight"))
    with pytest.raises(ConfigError, match=r"its files lack 1 weight \(model.norm.weight\)"):
        load(folder)


def test_weights_that_the_configuration_has_no_place_for_are_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    config["num_hidden_layers"] = 1
    if "layer_types" in config:
        config["layer_types"] = config["layer_types"][:1]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"its files hold \d+ weights \(model.layers.1.*no place"):
        load(folder)


def test_buffers_and_towers_are_no_reason_to_refuse(caplog):
    names = ["model.layers.0.self_attn.rotary_emb.inv_freq", "transformer.h.0.attn.masked_bias"]
    towers = ["model.vision_tower.blocks.0.weight", "model.multi_modal_projector.weight", "mtp.layers.0.weight"]
    with caplog.at_level("INFO"):
        weight_check.refuse_other_weights("x", {"missing_keys": {names[0]}, "unexpected_keys": {*names, *towers}})
    assert (
        "3 weights (model.multi_modal_projector.weight, model.vision_tower.blocks.0.weight, mtp.layers.0.weight) are left out"
        in caplog.text
    )
    with pytest.raises(ConfigError, match="hold 1 weight .model.layers.9.mlp.up_proj.weight."):
        weight_check.refuse_other_weights("x", {"missing_keys": set(), "unexpected_keys": {"model.layers.9.mlp.up_proj.weight"}})
