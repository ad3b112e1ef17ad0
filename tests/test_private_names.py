"""Which private names of transformers and TRL we touch: all of them here, at most ten; and a dpo run imports no TRL."""

import ast
import subprocess
import sys
from pathlib import Path

import lexalign

ROOT = Path(lexalign.__file__).resolve().parent
TOUCHED = {
    "_save_checkpoint": "transformers' Trainer: a checkpoint is written aside and gets its name when it is whole",
    "_metrics": "TRL's GRPOTrainer: the numbers since the last log line, kept in checkpoints",
    "_step": "TRL's GRPOTrainer: the place among the drawn answers, kept in checkpoints",
    "_buffered_inputs": "TRL's GRPOTrainer: the drawn answers, kept in checkpoints",
    "_attn_implementation": "transformers' configurations: the attention that is set",
    "_supports_attention_backend": "transformers' models: whether their attention can be replaced",
    "_commit_hash": "transformers' configurations: the hub's commit that was loaded",
}
"""Name -> whose, and why."""


def list_private_names() -> set[str]:
    """Names with a leading underscore that are read, set or overridden, less those that our own modules define."""
    touched, own = set(), set()
    for file in ROOT.rglob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
                touched.add(node.attr)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr", "setattr"):
                named = node.args[1].value if isinstance(node.args[1], ast.Constant) else ""
                touched |= {named} if isinstance(named, str) and named.startswith("_") and not named.startswith("__") else set()
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name.startswith("_") and not node.name.startswith("__"):
                own.add(node.name)
            if isinstance(node, (ast.Assign, ast.AnnAssign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for target in targets:
                    inner = target.elts if isinstance(target, ast.Tuple) else [target]
                    own |= {name.attr for name in inner if isinstance(name, ast.Attribute) and isinstance(name.value, ast.Name)
                            and name.value.id == "self" and name.attr.startswith("_")}  # fmt: skip
    return touched - (own - set(TOUCHED))


def test_the_private_names_are_listed_and_few():
    found = list_private_names()
    in_training = set()
    for folder in ("trainers", "training"):
        for file in (ROOT / folder).rglob("*.py"):
            tree = ast.parse(file.read_text(encoding="utf-8"))
            in_training |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr.startswith("_")}
            in_training |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("_")}
    in_training = {name for name in in_training if not name.startswith("__") and name != "_exit"}  # os._exit
    assert in_training <= set(TOUCHED), f"list {sorted(in_training - set(TOUCHED))} in TOUCHED with its reason, or use a public name"
    assert set(TOUCHED) <= found | in_training, f"{sorted(set(TOUCHED) - found - in_training)} are not touched any more: take them out"
    assert len(TOUCHED) <= 10


def test_the_trainer_files_are_short():
    assert sum(len(file.read_text().splitlines()) for file in (ROOT / "trainers").glob("*.py")) <= 700


def test_dpo_imports_no_trl():
    script = (
        "import sys\n"
        "import lexalign.stages.train, lexalign.training.trainer, lexalign.training.checkpointing, lexalign.training.reference\n"
        "import lexalign.trainers.dpo, lexalign.trainers.kto, lexalign.trainers.gdpo, lexalign.trainers.sft, lexalign.trainers.orpo\n"
        "assert not any(name.split('.')[0] == 'trl' for name in sys.modules), 'trl was imported'\n"
        "import lexalign.trainers.grpo\n"
        "assert 'trl' in sys.modules, 'the test sees trl where it is'\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, cwd=ROOT.parent)
    assert done.returncode == 0, done.stderr[-2000:]


def test_rows_are_refused_before_torch_is_imported():
    """The stage and its pipeline import nothing heavy themselves, so that bitsandbytes can be imported lightly, too."""
    script = "import sys\nimport lexalign.stages.train\nassert not {'torch', 'peft', 'transformers'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100, cwd=ROOT.parent)
    assert done.returncode == 0, done.stderr[-2000:]
