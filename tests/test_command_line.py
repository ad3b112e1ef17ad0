"""`python run.py …` as a process of its own: what a refusal and a question cost, and that neither writes or imports anything heavy."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from command_line_problems import problems_of

ROOT = Path(__file__).resolve().parent.parent
HEAVY = {"torch", "transformers", "trl", "peft", "datasets", "wandb", "accelerate", "pyarrow", "numpy", "huggingface_hub"}
# Imported by Python at its start: notes at its end what has been imported.
WITNESS = """
import atexit, json, os, sys
atexit.register(lambda: open(os.environ["WITNESS"], "w").write(json.dumps(sorted(name.partition(".")[0] for name in sys.modules))))
"""


@pytest.fixture
def type_line(tmp_path, monkeypatch):
    """Runs `python run.py …` in an empty folder: (finished process, CPU seconds, imported packages, what it left there)."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(WITNESS)
    desk, witness = tmp_path / "desk", tmp_path / "imported.json"
    desk.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    monkeypatch.setenv("WITNESS", str(witness))

    def run(*words: str):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, str(ROOT / "run.py"), *words], capture_output=True, text=True, cwd=desk, timeout=60)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return done, spent, set(json.loads(witness.read_text())), list(desk.rglob("*"))

    return run


REFUSED = {
    "one error": (["stage=align", "method=lora"], ["method=lora belongs to stage=sft, not stage=align; type stage=sft method=lora"]),
    "several errors": (
        ["method=qlora", "adapter.bits=5", "train.lr=1", "seed=x", "data.path=gone.csv"],
        ["adapter.bits=5", "here it is train.learning_rate", "seed=x: expected a whole number", "data.path=gone.csv: there is no file"],
    ),
    "foreign code": (["tracking._target_=os.system"], ["tracking._target_=os.system: code is only taken from lexalign"]),
    "third point of a sweep": (["-m", "seed=1,2,x"], ["seed=x: expected a whole number, found text 'x'"]),
    "a callback": (["+hydra.callbacks.x={_target_:os.system,command:touch}"], ["hydra.callbacks.x._target_=os.system"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_is_cheap_whole_and_leaves_nothing(case, type_line):
    words, expected = REFUSED[case]
    done, spent, imported, left = type_line(*words)
    if spent >= 1:  # the machine may be busy, which costs CPU too
        done, spent, imported, left = min((type_line(*words) for _ in range(5)), key=lambda run: run[1])
    assert done.returncode == 2 and done.stdout == ""
    assert [text for text in expected if text not in done.stderr] == [] and "Traceback" not in done.stderr
    assert done.stderr.startswith(f"{len(expected)} problem")
    assert imported & HEAVY == set() and left == []
    assert spent < 1, f"{spent:.2f} s of CPU"


@pytest.mark.parametrize("words", [["--cfg", "job"], ["--cfg", "job", "stage=align", "method=gdpo"], ["--help"]])
def test_a_question_is_answered_without_heavy_imports(words, type_line):
    done, _, imported, left = type_line(*words)
    assert done.returncode == 0 and "learning_rate" in done.stdout
    assert imported & HEAVY == set() and left == []


ACCEPTED = [
    "",
    "method=qlora",
    "method=full model.dtype=bfloat16",
    "stage=align method=gdpo",
    "stage=align adapter=qlora adapter.bits=8",
    "stage=align method=dpo data=tiny_beliefs method.beta=0.5",
    "stage=align method=gdpo method.belief_weight=0 data.limit=10 train.max_steps=3",
    "experiment=tiny/gdpo seed=7",
    "data=alpaca model=qwen3_0_6b",
    "data=text data.path=some/hub_set",
    "stage=download model=smollm2_135m data=alpaca download.only=models",
    "tracking=none evaluate.enabled=false",
    "data.eval_split=null data.eval_fraction=0.2",
    "train.scheduler=constant",
    "train={epochs:2,batch_size:4}",
    "hydra.verbose=true",
    "-m seed=range(2) method=lora,full",
    "--cfg job nonsense=1",  # Hydra's own to answer
]


@pytest.mark.parametrize("words", ACCEPTED)
def test_a_right_command_line_is_accepted(words):
    assert problems_of(words) == []
