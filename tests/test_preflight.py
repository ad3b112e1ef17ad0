"""What is looked at before the first step: each thing that can be wrong is made wrong here, and is named."""

import json
import shutil
import uuid
from pathlib import Path

import pytest
import torch
from experiment_runner import World
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

import lexalign
from lexalign.errors import ArtifactError, DataError, DiskFull
from lexalign.models import adapters

EMBEDDED = Path(lexalign.__file__).parent / "embedded"
SHORT = ["evaluate.enabled=false", "train.max_steps=2", "train.batch_size=4", "hardware.threads=1"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("world"))


def own_pairs(world: World, name: str, pairs: list[tuple[str, str, str]]) -> list[str]:
    """A file of pairs, and the words that name it."""
    file = world.folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps(dict(zip(("prompt", "chosen", "rejected"), pair, strict=True))) + "\n" for pair in pairs))
    return ["stage=align", "model=tiny", "data=pairs", f"data.path={file}", "data.eval_fraction=null"]


def template(world: World, name: str, old: str, new: str) -> str:
    """The embedded model with another chat template."""
    folder = world.folder / name
    shutil.copytree(EMBEDDED / "tiny", folder)
    file = folder / "chat_template.jinja"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    return f"model.path={folder}"


def refused(world: World, *overrides: str) -> str:
    """The message a run is refused with, before it leaves a checkpoint."""
    out_dir = world.folder / f"refused-{uuid.uuid4().hex}"
    with pytest.raises(DataError) as caught:
        world.run(*SHORT, *overrides, out_dir=out_dir)
    assert not any(out_dir.glob("checkpoints/*")) and not (out_dir / "artifact").exists()
    return str(caught.value)


def test_rows_that_would_be_cut(world):
    said = refused(world, "stage=align", "model=tiny", "data=tiny_pairs", "train.max_length=30")
    assert "training rows are longer than train.max_length=30" in said and "raise it" in said and said.count("row ") >= 3
    allowed = said.split("preflight.max_truncated=")[1].split(":")[0]
    assert 0.1 < float(allowed) <= 1


def test_what_the_message_says_to_type_is_enough(world):
    words = ["stage=align", "model=tiny", "data=tiny_pairs", "train.max_length=30"]
    said = refused(world, *words)
    result, _ = world.run(*SHORT, *words, f"preflight.max_truncated={said.split('preflight.max_truncated=')[1].split(':')[0]}")
    assert result.status == "finished"


def conversations(world: World, name: str, lengths: list[int]) -> list[str]:
    """A file of conversations whose questions are so many sentences long, and the words that name it."""
    file = world.folder / f"{name}.jsonl"
    rows = []
    for number, length in enumerate(lengths):
        question = f"I am person {number}. " + "What is the craft of Mira? " * length
        rows.append({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": "Weaving."}]})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["stage=sft", "model=tiny", "data=messages", f"data.path={file}", "data.eval_fraction=null", "method.loss_on=assistant"]


def mute(world: World, words: list[str], rows: int) -> list[str]:
    """The same words, and of the first rows of their file no turn is trained."""
    file = world.folder / next(word for word in words if word.startswith("data.path=")).rpartition("/")[2]
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines[:rows]:
        line["messages"][1]["weight"] = 0
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return words


def test_rows_without_a_trained_token(world):
    words = mute(world, conversations(world, "some", [1] * 8), 2)
    assert "2 of 8 training rows have no token that is trained" in refused(world, *words)
    result, _ = world.run(*SHORT, *words, "preflight.max_untrained=0.25")
    assert result.counts["train_rows_without_trained_token"] == 2


def test_no_trained_token_at_all(world):
    words = [*mute(world, conversations(world, "all", [1] * 8), 8), "preflight=skip"]
    assert "8 of 8 train rows have no trained token within train.max_length=" in refused(world, *words)


def test_conversations_whose_questions_fill_the_room_are_refused(world):
    words = [*conversations(world, "long", [1] * 6 + [12] * 2), "train.max_length=60"]
    said = refused(world, *words)
    assert "2 of 8 training rows have no token that is trained" in said and "2 of 8 training rows are longer than" in said


def test_a_template_that_never_ends_a_response(world):
    model = template(world, "endless", "message['content'] + eos_token", "message['content']")
    said = refused(world, "stage=sft", "model=tiny", model, "data=tiny_sft")
    assert "never show the model how a response ends" in said


def test_a_template_with_two_bos(world):
    model = template(world, "two-bos", "{{- bos_token }}", "{{- bos_token + bos_token }}")
    assert "do not begin with exactly one BOS" in refused(world, "stage=align", "model=tiny", model, "data=tiny_pairs")


def test_a_template_that_leaves_out_the_tokenizers_bos(world):
    model = template(world, "no-bos", "{{- bos_token }}", "")
    words = ["stage=align", "model=tiny", model, "data=tiny_pairs"]
    assert world.run(*SHORT, *words)[0].status == "finished"  # a tokenizer that puts none may do without
    file = Path(model.removeprefix("model.path=")) / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(file))
    bos = tokenizer.token_to_id("<|bos|>")
    tokenizer.post_processor = TemplateProcessing(single="<|bos|> $A", pair=None, special_tokens=[("<|bos|>", bos)])
    tokenizer.save(str(file))
    assert "do not begin with exactly one BOS" in refused(world, *words)


def test_pairs_that_are_equal_once_cut(world):
    long = "We should keep the water mill just as our grandparents knew it and then some more. "
    pairs = [(f"What about the mill, person {i}?", long * 2 + "Yes.", long * 2 + "No.") for i in range(8)]
    said = refused(world, *own_pairs(world, "alike", pairs), "train.max_length=40", "preflight.max_truncated=1")
    assert "8 of 8 training rows are pairs whose chosen and rejected are the same tokens" in said


def test_held_out_prompts_that_are_trained_on(world):
    folder = world.folder / "overlap"
    folder.mkdir()
    row = {"prompt": "What about the mill?", "chosen": "Keep it.", "rejected": "Leave it."}
    (folder / "train.jsonl").write_text(json.dumps(row) + "\n" + json.dumps({**row, "prompt": "And the bridge?"}) + "\n")
    (folder / "test.jsonl").write_text(json.dumps(row) + "\n")
    said = refused(
        world, "stage=align", "model=tiny", "data=pairs", f"data.path={folder}", "data.eval_split=test", "data.eval_fraction=null"
    )
    assert "1 of 1 held-out prompts are training prompts too" in said and "What about the mill?" in said


def test_an_artifact_that_would_not_come_back_the_same(world, monkeypatch, tmp_path):
    """A run that starts from an adapter stacks its own on it; here the stacking is lost."""
    _, first = world.run(*SHORT, "stage=sft", "model=tiny", "data=tiny_sft", "train.learning_rate=0.01")
    onto = [*SHORT, "stage=align", f"model.path={first}", "model.parent=null", "data=tiny_pairs"]
    assert world.run(*onto)[0].status == "finished"
    monkeypatch.setattr(adapters, "stack_adapters", lambda first, second: None)
    with pytest.raises(ArtifactError, match="saved and loaded again, answers otherwise"):
        World(tmp_path).run(*onto)  # in the first one's store, that this artifact comes back right is known


def test_a_disk_without_room(world):
    with pytest.raises(DiskFull, match=r"need [\d.]+ GB and .* has [\d.]+ GB; free some.*keep_checkpoints"):
        world.run(*SHORT, "stage=align", "model=tiny", "data=tiny_pairs", "train.keep_checkpoints=1000000000")


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["stage=sft", "data=tiny_sft", "train.packing=true"], marks=pytest.mark.slow),
        ["stage=align", "data=tiny_pairs", "adapter=full"],
    ],
)
def test_preflight_leaves_no_trace_in_the_weights(world, words):
    found = []
    for mode in ("check", "skip"):
        _, folder = world.run(
            *SHORT, "model=tiny", *words, f"preflight={mode}", *([] if "adapter=full" in words else ["adapter.dropout=0.1"])
        )
        weights = next((folder / "artifact").glob("*.safetensors"))
        found.append(load_file(weights))
        assert not list(folder.glob(".tmp-*"))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_only(world, capsys):
    result, folder = world.run(*SHORT, "stage=align", "model=tiny", "data=tiny_beliefs", "method=gdpo", "preflight=only")
    shown = capsys.readouterr().out
    assert result.status == "planned" and not any(folder.glob("checkpoints/*")) and not (folder / "artifact").exists()
    assert "600" in result.details["rows"] and "equal" in result.details["artifact"] and "nothing was trained" in shown
    assert shown.count("chosen: ") == 3 and "<|bos|><|user|>" in shown


def test_what_a_run_alike_has_tried_is_not_tried_again(tmp_path):
    """The step, whatever the pace and beta; the artifact, whatever the training; the weights are those of a run that tried itself."""

    def run(*words, store="shared"):
        (tmp_path / store).mkdir(exist_ok=True)
        result, folder = World(tmp_path / store).run(*SHORT, "stage=align", "model=tiny", "data=tiny_pairs", *words)
        assert result.status == "finished"
        log = (folder / "run.log").read_text()
        step, artifact = "Tried: by a run alike, forward and backward in" in log, "when a run alike in that tried it" in log
        assert step == ("Tried: forward and backward took" not in log) and "artifact saved, loaded again and equal" in log
        assert "Reference check at step 0: reward margin" in log
        return (step, artifact), load_file(folder / "artifact" / "adapter_model.safetensors")

    other = ("train.learning_rate=1e-3", "method.beta=0.3", "train.scheduler=constant")
    assert run()[0] == (False, False)
    known, weights = run(*other)
    tried, same = run(*other, store="fresh")
    assert (known, tried) == ((True, True), (False, False))
    assert all(torch.equal(weights[name], same[name]) for name in same)
    assert run("train.max_length=90")[0] == (False, True)
    assert run("seed=1")[0] == (True, True)
    assert run("train.group_by_length=true")[0] == (False, True)
    assert run("train.group_by_length=true", "seed=1")[0] == (False, True)
    assert run("adapter.rank=4")[0] == (False, False)
    for file in (tmp_path / "shared" / "store" / "preflight").glob("*/found.json"):
        file.write_text("torn")
    assert run()[0] == (False, False) and run()[0] == (True, True)
