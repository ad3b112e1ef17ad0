"""`stage=export`: adapters merged into their bases, measured against what was trained, read back, and usable as models."""

import json
import shutil
from importlib.metadata import version

import pytest
import torch
import yaml
from experiment_runner import World, result_of
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, PreTrainedModel

from lexalign.artifacts import files
from lexalign.artifacts.manifest import digest_manifest, find_damage, read_manifest
from lexalign.config.compose import compose
from lexalign.config.paths import EMBEDDED
from lexalign.errors import ArtifactError, ConfigError
from lexalign.models import adapters, loading
from lexalign.runs import reproduce

SHORT = ("hardware.threads=1", "train.learning_rate=3e-3", "preflight=skip", "evaluate=false")
STEPS = "train.max_steps=12"
FEW = ("hardware.threads=1", "export.rows=12")
TINY = EMBEDDED / "tiny"
NEW = "<|weaver|>"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("export"))


@pytest.fixture(scope="module")
def lora(world):
    return world.run(*SHORT[:-1], STEPS, "evaluate.limit=24", "evaluate.max_new_tokens=16", "evaluate.draws=0")[1]


@pytest.fixture(scope="module")
def exported(world, lora):
    return world.run("stage=export", f"model.path={lora}", *FEW)


def loaded(folder, **more):
    return AutoModelForCausalLM.from_pretrained(folder, **more).eval()


@torch.no_grad()
def logits(model, texts, tokenizer):
    return [model(torch.tensor([tokenizer(text)["input_ids"]])).logits[0].float() for text in texts]


def kl_by_hand(first, second, tokenizer, rows):
    """KL(first ‖ second) in nats a token over completions, written out."""
    total = count = 0
    for row in rows:
        turns = [{"role": "user", "content": row["prompt"]}]
        prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        context, answer = (tokenizer(t, add_special_tokens=False)["input_ids"] for t in (prompt, row["completion"] + tokenizer.eos_token))
        with torch.no_grad():
            p, q = (m(torch.tensor([context + answer])).logits[0, len(context) - 1 : -1].double().log_softmax(-1) for m in (first, second))
        total, count = total + float((p.exp() * (p - q)).sum()), count + len(answer)
    return total / count


def held_out(count):
    lines = (EMBEDDED / "data" / "tiny_sft" / "test.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines[:count]]


def nothing_left(folder):
    return not (folder / "artifact").exists() and not list(folder.glob(f"{files.ASIDE}*"))


def test_a_lora_is_merged_and_stands_alone(exported, lora):
    result, folder = exported
    artifact = folder / "artifact"
    assert {path.name for path in artifact.iterdir()} == {
        "README.md", "chat_template.jinja", "config.json", "generation_config.json", "manifest.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip
    assert find_damage(artifact) is None and read_manifest(artifact)["kind"] == "model"
    tokenizer, model = AutoTokenizer.from_pretrained(artifact), loaded(artifact)
    assert model.dtype == torch.bfloat16, "as the base is stored"
    trained = PeftModel.from_pretrained(loaded(TINY, dtype=torch.float32), lora / "artifact").eval()
    by_hand = kl_by_hand(trained, model, tokenizer, held_out(12))
    assert result.metrics["after"]["kl"] == pytest.approx(by_hand, rel=0.05, abs=1e-7) and 0 < by_hand < 1e-3
    assert kl_by_hand(trained, loaded(TINY, dtype=torch.float32), tokenizer, held_out(12)) > 0.1, "the adapter does something"
    assert set(result.metrics["after"]) == set(result.intervals) == set(result.n) == {"kl", "perplexity"} and result.n["kl"] == 12
    low, high = result.intervals["kl"]
    assert low <= result.metrics["after"]["kl"] <= high


def test_in_float32_nothing_is_rounded(world, lora, exported):
    result, folder = world.run("stage=export", f"model.path={lora}", "export.dtype=float32", *FEW)
    assert loaded(folder / "artifact").dtype == torch.float32
    assert abs(result.metrics["after"]["kl"]) < 1e-8 < exported[0].metrics["after"]["kl"]


def test_the_card_tells_data_method_numbers_and_commands(exported, lora):
    front, card = (exported[1] / "artifact" / "README.md").read_text().removeprefix("---\n").split("---\n", 1)
    assert yaml.safe_load(front)["license"] == "apache-2.0" and yaml.safe_load(front)["tags"] == ["lexalign", "lora"]
    assert "trained with lora on embedded:tiny_sft; merged into the original weights, in bfloat16" in card
    found = result_of(lora)
    for name, value in found["metrics"]["after"].items():
        low, high = found["intervals"][name]
        assert f"| {name} | {found['n'][name]} | {found['metrics']['before'][name]:.4f} | {value:.4f} | {low:.4f} to {high:.4f} |" in card
    assert "648 rows, seed 0" in card and f"torch {version('torch')}" in card
    trained, export = card.partition("```bash\n")[2].splitlines()[:2]
    assert trained.startswith("python run.py") and STEPS in trained and export.startswith("python run.py stage=export")
    assert str(lora.parent) not in card, "no folder of this machine"


def test_secrets_do_not_reach_the_card(world, lora, monkeypatch):
    monkeypatch.setenv("MY_API_KEY", "embedded:tiny_sft")
    card = (world.run("stage=export", f"model.path={lora}", *FEW)[1] / "artifact" / "README.md").read_text()
    assert "embedded:tiny_sft" not in card and "[secret]" in card


@pytest.fixture(scope="module", params=[4, 8])
def quantized(world, request):
    return request.param, world.run("method=qlora", f"adapter.bits={request.param}", *SHORT, STEPS)[1]


def test_a_quantized_base_is_merged_both_ways_and_the_nearer_kept(world, quantized):
    bits, run = quantized
    result, folder = world.run("stage=export", f"model.path={run}", "export.dtype=float32", *FEW)
    told = result.details["exported"]
    ways = {way: found["kl"] for way, found in told["ways"].items()}
    assert set(ways) == {"dequantized", "original"} and told["way"] == min(ways, key=ways.get)
    assert result.metrics["after"]["kl"] == min(ways.values())
    settings = {"load_in_8bit": True} if bits == 8 else {
        "load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": torch.float32
    }  # fmt: skip
    base = loaded(TINY, quantization_config=BitsAndBytesConfig(**settings), device_map="cpu", dtype=torch.float32)
    loading.keep_quantized_weights(base)
    trained, tokenizer = PeftModel.from_pretrained(base, run / "artifact").eval(), AutoTokenizer.from_pretrained(TINY)
    plain = PeftModel.from_pretrained(loaded(TINY, dtype=torch.float32), run / "artifact").merge_and_unload().eval()
    for way, model in ((told["way"], loaded(folder / "artifact")), ("original", plain)):
        # int8 looks for outliers over a whole batch, padding included, so that its logits depend a little on the rows beside.
        assert ways[way] == pytest.approx(kl_by_hand(trained, model, tokenizer, held_out(12)), rel=0.05 if bits == 4 else 0.5, abs=1e-7), (
            way
        )
    if bits == 4:
        assert ways["dequantized"] < ways["original"] / 10, "nf4 is coarse, and the adapter was trained around it"
    said = (folder / "run.log").read_text()
    assert "Merged into the dequantized weights: kl" in said and "Merged into the original weights: kl" in said


def test_it_is_refused_over_the_threshold_with_both_numbers(world, quantized):
    folder = world.folder / f"refused-{quantized[0]}"
    with pytest.raises(ArtifactError) as refused:
        world.run("stage=export", f"model.path={quantized[1]}", "export.max_kl=1e-12", *FEW, out_dir=folder)
    said = str(refused.value)
    assert "merged into the dequantized weights: kl" in said and "merged into the original weights: kl" in said
    assert "allowed is export.max_kl=1e-12" in said and "export.dtype=float32 rounds less" in said and "export.max_kl=" in said
    assert nothing_left(folder) and result_of(folder)["status"] == "failed"


def test_a_full_model_is_exported_as_it_is(world):
    _, run = world.run("method=full", *SHORT, STEPS)
    result, folder = world.run("stage=export", f"model.path={run}", *FEW)
    before, after = (load_file(place / "artifact" / "model.safetensors") for place in (run, folder))
    assert set(before) == set(after) and all(torch.equal(before[name], after[name]) for name in before) and result.metrics["after"] == {}
    result, folder = world.run("stage=export", f"model.path={run}", "export.dtype=bfloat16", *FEW)
    assert 0 < result.metrics["after"]["kl"] < 1e-2 and result.details["exported"]["ways"]["unmerged"], "what rounding does is measured"


def test_it_is_a_model_to_evaluate_to_train_and_to_align(world, exported, lora):
    folder = exported[1]
    result, _ = world.run("stage=evaluate", f"model.path={folder}", "data=tiny_sft", "evaluate.limit=24", "evaluate.max_new_tokens=16",
                          "evaluate.draws=0", "hardware.threads=1")  # fmt: skip
    assert result.details["reference"] == "embedded:tiny", "what it was trained from is known of it"
    assert result.metrics["after"]["perplexity"] == pytest.approx(result_of(lora)["metrics"]["after"]["perplexity"], rel=1e-2)
    _, sft = world.run(f"model.path={folder}", *SHORT, "train.max_steps=2")
    _, dpo = world.run("stage=align", "model=tiny", f"model.path={folder}", *SHORT, "train.max_steps=2")
    for run in (sft, dpo):
        again, _ = world.run("stage=export", f"model.path={run}", *FEW)
        assert again.status == "finished" and again.details["exported"]["base"].startswith(str(folder))


def with_token(folder, *, tied):
    """The embedded model with a token more, its embedding unlike any other, in a folder of its own."""
    tokenizer, model = AutoTokenizer.from_pretrained(TINY), loaded(TINY, dtype=torch.float32)
    tokenizer.add_special_tokens({"additional_special_tokens": [NEW]})
    if not tied:
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone() * 1.5)
    model.resize_token_embeddings(len(tokenizer) + 3, mean_resizing=False)
    torch.manual_seed(5)
    with torch.no_grad():
        for weight in {model.get_input_embeddings().weight, model.get_output_embeddings().weight}:
            weight[-4:] = torch.randn(4, weight.shape[1])
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model.eval(), tokenizer


@pytest.mark.parametrize("tied", [True, False])
def test_added_tokens_and_resized_embeddings_survive(world, tmp_path, tied):
    model, tokenizer = with_token(tmp_path / "base", tied=tied)
    _, run = world.run(f"model.path={tmp_path / 'base'}", *SHORT, "train.max_steps=4")
    _, folder = world.run("stage=export", f"model.path={run}", *FEW)
    again, words = loaded(folder / "artifact"), AutoTokenizer.from_pretrained(folder / "artifact")
    assert words.convert_tokens_to_ids(NEW) == tokenizer.convert_tokens_to_ids(NEW) == len(tokenizer) - 1
    assert again.config.tie_word_embeddings is tied and again.get_input_embeddings().weight.shape[0] == len(tokenizer) + 3
    for part in ("get_input_embeddings", "get_output_embeddings"):
        assert torch.equal(getattr(again, part)().weight, getattr(model, part)().weight)
    trained = PeftModel.from_pretrained(model, run / "artifact").eval()
    for one, other in zip(*(logits(m, [f"Who is {NEW}?"], words) for m in (trained, again)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("tied", "saved"), [(True, ["embed_tokens"]), (False, ["embed_tokens", "lm_head"])])
def test_an_adapter_from_elsewhere_brings_embeddings_of_its_own(world, tmp_path, tied, saved):
    """As PEFT users add tokens: the base is not resized on the disk, the adapter holds whole embeddings."""
    if tied:
        start = TINY
    else:
        start = tmp_path / "untied"
        with_token(start, tied=False)
    base, tokenizer = loaded(start, dtype=torch.float32), AutoTokenizer.from_pretrained(start)
    tokenizer.add_tokens([f"{NEW}2"])
    wanted_rows = max(len(tokenizer), base.get_input_embeddings().weight.shape[0]) + 2
    base.resize_token_embeddings(wanted_rows, mean_resizing=False)
    model = get_peft_model(
        base, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], modules_to_save=saved, task_type="CAUSAL_LM")
    )
    torch.manual_seed(3)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.requires_grad:
                weight.add_(0.05 * torch.randn_like(weight)) if "lora_B" in name or "modules_to_save" in name else None
    model.peft_config["default"].base_model_name_or_path = str(start)
    model.save_pretrained(tmp_path / "adapter")
    tokenizer.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ConfigError, match="does not record which data it was trained on; name rows to compare on: data="):
        world.run("stage=export", f"model.path={tmp_path / 'adapter'}", *FEW)
    result, folder = world.run("stage=export", f"model.path={tmp_path / 'adapter'}", "data=tiny_sft", "export.dtype=float32", *FEW)
    again, words = loaded(folder / "artifact"), AutoTokenizer.from_pretrained(folder / "artifact")
    assert f"{NEW}2" in words.get_vocab() and again.get_input_embeddings().weight.shape[0] == wanted_rows
    assert again.config.tie_word_embeddings is False, "one of two that were tied was trained, or they never were"
    for one, other in zip(*(logits(m, [f"Who is {NEW}2?"], words) for m in (model.eval(), again)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert result.metrics["after"]["kl"] < 1e-6
    manifest = read_manifest(folder / "artifact")
    assert manifest["model"]["path"] == str(start) and manifest["data"]["path"] == "embedded:tiny_sft", "what it was trained from is kept"


def test_added_tokens_without_embeddings_are_refused(world, lora, tmp_path):
    shutil.copytree(lora / "artifact", tmp_path / "adapter", ignore=shutil.ignore_patterns("manifest.json"))
    config = tmp_path / "adapter" / files.ADAPTER_CONFIG
    config.write_text(json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": str(TINY)}))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "adapter")
    tokenizer.add_tokens([NEW])
    tokenizer.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ConfigError, match="its tokenizer has 1409 tokens and its base 1408 embeddings, .*save_embedding_layers=True"):
        world.run("stage=export", f"model.path={tmp_path / 'adapter'}", "data=tiny_sft", *FEW)


def test_an_adapter_for_another_base_is_refused_by_name(world, tmp_path):
    shutil.copytree(TINY, tmp_path / "base")
    _, run = world.run(f"model.path={tmp_path / 'base'}", *SHORT, "train.max_steps=1")
    weights = load_file(tmp_path / "base" / "model.safetensors")
    save_file({name: weight * 1.01 for name, weight in weights.items()}, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"its base .*base is not the model it was trained on \(sha256 differs\)"):
        world.run("stage=export", f"model.path={run}", *FEW)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"intermediate_size": 200}, "mlp.down_proj is of width 200, the adapter's of width 384"), ({"num_hidden_layers": 2}, "is not there")],
)
def test_an_adapter_of_another_shape_is_refused_by_name(world, lora, tmp_path, change, said):
    """PEFT would leave the layers that are not there out, and say nothing."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(TINY)
    config.update(change)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(TINY).save_pretrained(tmp_path / "base")
    shutil.copytree(lora / "artifact", tmp_path / "adapter", ignore=shutil.ignore_patterns("manifest.json"))
    described = tmp_path / "adapter" / files.ADAPTER_CONFIG
    described.write_text(json.dumps({**json.loads(described.read_text()), "base_model_name_or_path": str(tmp_path / "base")}))
    with pytest.raises(ConfigError, match=f"the adapter belongs on another base than .*{said}"):
        world.run("stage=export", f"model.path={tmp_path / 'adapter'}", "data=tiny_sft", *FEW)


def spoiled(spoil):
    """`save_pretrained` of a disk, or a library, that does not write what it was given."""
    honest = PreTrainedModel.save_pretrained

    def save(self, folder, **more):
        honest(self, folder, **more)
        weights = load_file(folder / "model.safetensors")
        spoil(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return save


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda w: w["model.norm.weight"].add_(0.25), r"model.norm.weight came back 0\.2\d* apart"),
        (lambda w: w.pop("model.layers.1.mlp.up_proj.weight"), "model.layers.1.mlp.up_proj.weight"),
    ],
)
def test_what_comes_back_otherwise_is_refused_and_nothing_left(world, lora, monkeypatch, spoil, said):
    monkeypatch.setattr(PreTrainedModel, "save_pretrained", spoiled(spoil))
    folder = world.folder / f"spoiled-{said[:9]}"
    with pytest.raises(ArtifactError, match=f"{said}.*nothing of it is left"):
        world.run("stage=export", f"model.path={lora}", *FEW, out_dir=folder)
    assert nothing_left(folder)


def test_a_damaged_run_is_refused(world, lora, tmp_path):
    shutil.copytree(lora, tmp_path / "run")
    with (tmp_path / "run" / "artifact" / adapters.WEIGHTS).open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    with pytest.raises(ConfigError, match="is not the file that was saved"):
        world.run("stage=export", f"model.path={tmp_path / 'run'}", *FEW)


def changed_manifest(run, folder, change):
    """A copy of a run whose manifest tells something else of its data."""
    shutil.copytree(run, folder)
    manifest = read_manifest(folder / "artifact")
    change(manifest)
    manifest.pop("sha256")
    files.write_json(folder / "artifact" / "manifest.json", {**manifest, "sha256": digest_manifest(manifest)})
    return folder


def test_a_strangers_manifest_runs_no_code(world, lora, tmp_path):
    run = changed_manifest(lora, tmp_path / "run", lambda m: m["settings"]["data"].update(converter="os.system"))
    with pytest.raises(
        ConfigError, match="its recorded data settings cannot be used: data.converter=os.system: code is only taken from lexalign"
    ):
        world.run("stage=export", f"model.path={run}", *FEW)


def test_rows_that_are_gone_or_changed_are_told(world, lora, tmp_path):
    run = changed_manifest(lora, tmp_path / "run", lambda m: m["data"].update(path="./gone"))
    with pytest.raises(ConfigError, match="was trained on ./gone: there is no file or folder ./gone; name rows to compare on"):
        world.run("stage=export", f"model.path={run}", *FEW)
    run = changed_manifest(lora, tmp_path / "other", lambda m: m["data"]["files"].update(test="0" * 64))
    _, folder = world.run("stage=export", f"model.path={run}", *FEW)
    assert "has changed since the model was trained" in (folder / "run.log").read_text()


def test_an_export_is_made_again_to_the_byte(world, exported):
    words = [f"reproduce={exported[1]}", f"output_dir={world.folder / 'again'}", f"store={world.store}"]
    assert reproduce.reproduce_run(str(exported[1]), compose(words).experiment)


def test_a_dry_run_exports_nothing(world, lora, capsys):
    result, folder = world.run("stage=export", f"model.path={lora}", "dry_run=true", *FEW)
    assert result.details["plan"]["compared on"] == "embedded:tiny_sft: 12 of 240 rows" and nothing_left(folder)
    assert "nothing is exported" in capsys.readouterr().out


def test_beliefs_and_pairs_are_compared_on_what_was_chosen(world):
    _, run = world.run("stage=align", "method=gdpo", "model=tiny", *SHORT, "train.max_steps=2")
    result, _ = world.run("stage=export", f"model.path={run}", *FEW)
    assert result.n["kl"] == 12 and 0 <= result.metrics["after"]["kl"] < 1e-3
