"""A finished run made again from what it recorded, and what is said where it comes out otherwise."""

import json

import pytest
from experiment_runner import World

from lexalign.artifacts.manifest import read_manifest
from lexalign.config.compose import compose
from lexalign.errors import ConfigError
from lexalign.runs import reproduce

SHORT = ["evaluate=false", "train.max_steps=3", "train.batch_size=4", "hardware.threads=1", "model=tiny", "preflight.max_overlap=1"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def own_run(world):
    """A dpo run on a file of the user's own."""
    file = world.folder / "pairs.jsonl"
    rows = [{"prompt": f"What about the mill, {i}?", "chosen": f"Keep it, {i}.", "rejected": f"No, {i}."} for i in range(16)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    _, folder = world.run(*SHORT, "stage=align", "data=pairs", f"data.path={file}", "data.eval_fraction=null", "deterministic=strict")
    return file, folder


def again(world, folder, name) -> bool:
    """Whether the run comes out the same."""
    words = [f"reproduce={folder}", f"output_dir={world.folder / name}", f"store={world.store}"]
    return reproduce.reproduce_run(str(folder), compose(words).experiment)


def test_the_manifest_tells_what_a_run_stood_on(own_run):
    manifest = read_manifest(own_run[1] / "artifact")
    stood_on = manifest["surroundings"]
    assert stood_on["threads"] == 1 and stood_on["deterministic"] == "strict" and stood_on["machine"]["processor"]
    assert {"python", "torch", "trl"} <= set(stood_on["versions"]) and len(stood_on["code"]["lexalign"]) == 64
    assert len(manifest["rows_sha256"]) == 64 and manifest["data"]["files"]["train"] and manifest["counts"]["train_rows"] == 16


def test_it_comes_out_the_same(world, own_run, capsys):
    assert again(world, own_run[1], "same")
    assert "files of its artifact are the same to the byte" in capsys.readouterr().out


def test_as_one_types_it(world):
    first = world.type(*SHORT, "stage=sft", "tracking=none", "output_dir=typed")
    assert first.returncode == 0, first.stderr[-2000:]
    done = world.type("reproduce=typed")
    assert done.returncode == 0 and "typed is reproduced in multirun/" in done.stdout, done.stdout + done.stderr[-2000:]


def test_the_first_input_that_differs_is_named(world, own_run, capsys):
    file, folder = own_run
    before = file.read_text()
    file.write_text(before.replace("Keep it", "Leave it"))
    try:
        assert not again(world, folder, "other")
    finally:
        file.write_text(before)
    said = capsys.readouterr().out
    assert "the first input that differs is data" in said and "adapter_model.safetensors: sha256" in said
    assert "input rows_sha256: " in said


def test_what_cannot_be_reproduced(world, own_run):
    with pytest.raises(ConfigError, match="holds no finished run that made a model"):
        reproduce.read_recorded_run(world.folder)
    weights = own_run[1] / "artifact" / "adapter_model.safetensors"
    before = weights.read_bytes()
    weights.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    try:
        with pytest.raises(ConfigError, match="there is nothing whole to compare with"):
            reproduce.read_recorded_run(own_run[1])
    finally:
        weights.write_bytes(before)


@pytest.mark.parametrize("words", [["stage=sft", "data=tiny_sft"], ["stage=align", "method=gdpo"]])
def test_strict_trains_and_changes_nothing_on_the_cpu(world, words):
    folders = [world.run(*SHORT, *words, f"deterministic={how}")[1] for how in ("off", "strict")]
    one, other = ((folder / "artifact" / "adapter_model.safetensors").read_bytes() for folder in folders)
    assert one == other
