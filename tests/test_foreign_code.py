"""A configuration is data that people share: it cannot name code to run, nor carry a secret or change the environment."""

import textwrap
from pathlib import Path

import pytest
from command_line_problems import judged, problems_of, said

from lexalign.config import rules, targets

FOREIGN = [
    "os.system",
    "subprocess.Popen",
    "builtins.eval",
    "hydra.utils.call",
    "lexalignx.y",
    "lexalign",
    "lexalign..os",
    ".lexalign.os",
    "lexalign.",
    "lexalign.stages.train.run()",
    "lexalign.artifacts.fingerprint.os.system",
    "lexalign.artifacts.fingerprint.subprocess",
    "lexalign.config.compose.importlib",
    "lexalign/../os.system",
    1,
    ["os.system"],
]


@pytest.mark.parametrize("path", FOREIGN)
def test_a_path_to_code_that_is_not_ours_to_offer_is_refused(path):
    nodes = {
        "_target_": {"_target_": path},
        "a[0].b.settings_class": {"a": [{"b": {"settings_class": path}}]},
        "converter": {"converter": path},
    }
    for where, node in nodes.items():
        (problem,) = targets.find_target_problems(node, ["lexalign"])
        assert problem.startswith(f"{where}={path}: ")


def test_what_this_package_defines_is_accepted():
    for path in ("stages.train.run", "tracking.WandbTracker", "config.schema.DpoMethod", "data.converters.alpaca"):
        assert targets.explain_wrong_target(f"lexalign.{path}", ["lexalign"]) is None


def test_a_misspelt_path_is_refused_before_anything_is_imported():
    assert targets.explain_wrong_target("lexalign.trainers.dpo.DpoObjectiv", ["lexalign"]) == (
        "lexalign.trainers.dpo defines no DpoObjectiv; did you mean DpoObjective?"
    )
    assert targets.explain_wrong_target("lexalign.trainers.dop.DpoObjective", ["lexalign"]) == "there is no module lexalign.trainers.dop"
    assert targets.explain_wrong_target("lexalign.stages.train.run", ["lexalign"], classes_only=True) is not None


def test_on_the_command_line_the_way_out_is_named():
    typed = "stage._target_=os.system method._target_=builtins.eval tracking._target_=subprocess.Popen data.converter=os.system"
    problems = problems_of(typed)
    for word in typed.split():
        assert said(problems, word, "code is only taken from lexalign", "'extensions=[mypackage]'")


def test_behind_a_plus_too():
    assert said(problems_of("+method.hook._target_=os.system"), "method.hook._target_=os.system: code is only taken from lexalign")


def test_knobs_must_be_a_method():
    found: list[str] = []
    assert targets.get_settings_class({"method": {"settings_class": "lexalign.config.schema.Data"}}, ["lexalign"], found) == {}
    assert found == ["method.settings_class=lexalign.config.schema.Data: is no subclass of lexalign.config.schema.Method"]


FILES = {
    "callback": ("hydra: {callbacks: {x: {_target_: os.system, command: touch pwned}}}", "hydra.callbacks.x._target_=os.system"),
    "through_hydra": (
        "hydra: {callbacks: {x: {_target_: hydra._internal.utils.os.system, command: touch pwned}}}",
        "hydra.callbacks.x._target_=hydra._internal.utils.os.system",
    ),
    "through_us": (
        "hydra: {callbacks: {x: {_target_: lexalign.artifacts.files.write_text, path: pwned, text: x}}}",
        "hydra.callbacks.x._target_=lexalign.artifacts.files.write_text",
    ),
    "logging_factory": (
        "hydra: {job_logging: {version: 1, handlers: {x: {'()': logging.os.system, command: touch pwned}}, root: {handlers: [x]}}}",
        "hydra.job_logging.handlers.x.()=logging.os.system",
    ),
    "logging_class": (
        "hydra: {hydra_logging: {version: 1, handlers: {x: {class: subprocess.Popen, args: [touch, pwned]}}, root: {handlers: [x]}}}",
        "hydra.hydra_logging.handlers.x.class=subprocess.Popen",
    ),
    "environment": ("hydra: {job: {env_set: {WANDB_BASE_URL: 'http://elsewhere'}}}", "hydra.job.env_set.WANDB_BASE_URL"),
    "extension": ("extensions: [os]", "extensions: may only be named on the command line, as in 'extensions=[mylab]'"),
    "secret": ("tracking: {name: '${oc.env:A_TOKEN}'}", "tracking.name: ${oc.env:…} may not be used in settings"),
    "environment_within": ("tracking: {tags: ['a ${oc.env:HOME} b']}", "tracking.tags[0]: ${oc.env:…} may not be used in settings"),
    "environment_nested": ("seed: ${oc.decode:${oc.env:SEED}}", "seed: ${oc.env:…} may not be used in settings"),
    "resolver_unknown": ("store: ${eval:1}", "store: ${eval:…} may not be used in settings"),
    "sweeper": ("hydra: {sweeper: {_target_: os.system}}", "hydra.sweeper._target_=os.system"),
    "launcher": ("hydra: {launcher: {_target_: subprocess.run}}", "hydra.launcher._target_=subprocess.run"),
    "sweeper_argument": ("hydra: {sweeper: {command: touch pwned}}", "hydra.sweeper.command: is not read"),
    "formatter": (
        "hydra: {job_logging: {version: 1, formatters: {x: {'()': os.system, command: touch pwned}}}}",
        "hydra.job_logging.formatters.x.()=os.system",
    ),
    "filter_class": (
        "hydra: {job_logging: {version: 1, filters: {x: {'()': builtins.exec, source: x}}}}",
        "hydra.job_logging.filters.x.()=builtins.exec",
    ),
    "tracker": ("tracking: {_target_: subprocess.Popen}", "tracking._target_=subprocess.Popen: code is only taken from lexalign"),
    "stage_target": ("stage: {_target_: os.system}", "stage._target_=os.system: code is only taken from lexalign"),
    "method_target": ("method: {_target_: builtins.eval}", "method._target_=builtins.eval: code is only taken from lexalign"),
    "method_knobs": ("method: {settings_class: os.system}", "method.settings_class=os.system: code is only taken from lexalign"),
    "converter": ("data: {converter: os.system}", "data.converter=os.system: code is only taken from lexalign"),
    "converter_of_a_dependency": ("data: {converter: yaml.unsafe_load}", "data.converter=yaml.unsafe_load: code is only taken"),
    "partial": ("model: {x: {_target_: os.system, _partial_: true}}", "model.x._target_=os.system"),
    "remote_code": ("model: {path: a/b, parent: null, trust_remote_code: true}", "pin it with model.revision=<40-hex commit>"),
    "pickle": ("model: {path: weights.bin, parent: null}", "model.path=weights.bin"),
    "typo": ("train: {learnin_rate: 1.0}", "train.learnin_rate: unknown setting; did you mean train.learning_rate?"),
    "no_yaml": ("train: [", "no_yaml.yaml:3: is not YAML"),
    "interpolation": ("seed: ${sed}", "seed: Interpolation key 'sed' not found"),
    "choice": ("defaults: [{override /method: gpdo}]", "method=gpdo: there is no such method"),
    "itself": ("defaults: [{override /model: tiny_sft}]\nmodel: {parent: itself}", "experiments descend from each other: itself -> itself"),
    "fetches": ("defaults: [{override /stage: download}, {override /data: alpaca}]", ""),
    "no_artifact": (
        "defaults: [{override /model: tiny_sft}]\nmodel: {parent: fetches}",
        "model.parent=fetches: is stage=download and fetches no model",
    ),
}


@pytest.fixture(scope="module")
def shared_configs(tmp_path_factory) -> Path:
    """A folder of experiments as one might get it from somebody else."""
    folder = tmp_path_factory.mktemp("shared")
    (folder / "experiment").mkdir()
    for name, (text, _) in FILES.items():
        (folder / "experiment" / f"{name}.yaml").write_text(f"# @package _global_\n{text}\n")
    (folder / "experiment" / "no_header.yaml").write_text("train: {epochs: 3}\n")
    (folder / "data").mkdir()
    (folder / "adapter").mkdir()
    (folder / "adapter" / "short.yaml").write_text("kind: lora\n")
    return folder


@pytest.mark.parametrize("name", [name for name, (_, expected) in FILES.items() if expected])
def test_an_experiment_file_is_refused(name, shared_configs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("A_TOKEN", "hf_" + "a" * 30)
    problems = problems_of(["--config-dir", str(shared_configs), f"experiment={name}"])
    assert said(problems, FILES[name][1]), problems
    assert "hf_a" not in "".join(problems) and list(tmp_path.iterdir()) == []


def test_a_file_without_its_header_is_not_ignored(shared_configs):
    problems = problems_of(["--config-dir", str(shared_configs), "experiment=no_header"])
    assert problems == ["experiment: its file sets nothing; let it begin with the line `# @package _global_`"]


def test_a_group_file_that_leaves_settings_out_is_told_each(shared_configs):
    """An adapter's file stands alone; what files of data, models, hardware and tracking leave out is in conf/config.yaml."""
    problems = problems_of(["--config-dir", str(shared_configs), "stage=align", "model=none", "model.path=embedded:tiny", "adapter=short"])
    missing = [problem for problem in problems if "missing; give it with" in problem]
    assert "adapter.rank: missing; give it with adapter.rank=…" in missing and len(missing) == 5


SECRETS = [
    "hf_" + "aB3" * 10,
    "sk-" + "x" * 24,
    "ghp_" + "z" * 36,
    "AKIA" + "A" * 16,
    "0123456789abcdef" * 2 + "01234567",
    "https://user:hf_" + "a" * 20 + "@huggingface.co",
]


@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_is_refused_wherever_it_stands_and_not_repeated(secret):
    for node, where in (({"a": {"b": secret}}, "a.b"), ({"a": ["x", secret]}, "a[1]"), ({"a": [{"b": f"x {secret} y"}]}, "a[0].b")):
        (problem,) = rules.check_secrets(node)
        assert problem.startswith(f"{where}: looks like a token") and "HF_TOKEN or WANDB_API_KEY" in problem and secret not in problem


def test_a_commit_is_no_secret():
    commit = "0123456789abcdef0123456789abcdef01234567"
    assert rules.check_secrets({"model": {"revision": commit, "tokenizer_revision": commit}, "name": "lr=0.1 hf_transfer sk-learn"}) == []
    assert judged("model=qwen3_0_6b", "seed=1") == []


def test_a_secret_on_the_command_line():
    assert said(problems_of(["tracking.entity=hf_" + "a" * 30]), "tracking.entity: looks like a token or key")


LAB = {
    "mylab/__init__.py": "",
    "mylab/knobs.py": """
        from dataclasses import dataclass
        from typing import Annotated
        from lexalign.config.parsing import Range
        from lexalign.config.schema import DpoMethod

        @dataclass(frozen=True, kw_only=True)
        class Mine(DpoMethod):
            sharpness: Annotated[float, Range(above=1)]
            \"\"\"How sharp.\"\"\"
        """,
    "mylab/trainers.py": """
        from lexalign.trainers.dpo import DpoObjective
        class MyTrainer(DpoObjective):
            pass
        """,
    "conf/method/mine.yaml": """
        # @package _global_
        defaults:
          - dpo
          - _self_
        method:
          name: mine
          _target_: mylab.trainers.MyTrainer
          settings_class: mylab.knobs.Mine
          sharpness: 2.0
        """,
}


@pytest.fixture
def lab(tmp_path, monkeypatch) -> Path:
    """A package of the user's own, with a method in a folder of configurations beside it."""
    for name, text in LAB.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(textwrap.dedent(text).lstrip())
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_a_method_of_the_users_own(lab):
    line = ["--config-dir", str(lab / "conf"), "stage=align", "method=mine"]
    assert problems_of([*line, "extensions=[mylab]", "method.sharpness=3", "method.beta=0.2"]) == []
    refused = problems_of(line)
    for path in ("method._target_=mylab.trainers.MyTrainer", "method.settings_class=mylab.knobs.Mine"):
        assert said(refused, path, "'extensions=[mypackage]'")
    assert problems_of([*line, "extensions=[mylab]", "method.sharpness=1"]) == ["method.sharpness=1: must be above 1"]
    assert said(problems_of([*line, "extensions=[mylab]", "method.sharpnes=2"]), "did you mean method.sharpness?")
    assert problems_of([*line, "extensions=[mylab]", "method._target_=mylab.trainers.MyTraner"]) == [
        "method._target_=mylab.trainers.MyTraner: mylab.trainers defines no MyTraner; did you mean MyTrainer?"
    ]


def test_its_class_is_found_and_is_one_of_ours(lab):
    from hydra.utils import get_class

    from lexalign.trainers.dpo import DpoObjective

    assert issubclass(get_class("mylab.trainers.MyTrainer"), DpoObjective)


def test_a_package_may_be_one_file_and_offers_what_it_defines(lab):
    (lab / "onefile.py").write_text("import os\nfrom subprocess import Popen\nclass Mine: pass\n")
    assert targets.explain_wrong_target("onefile.Mine", ["onefile"]) is None
    assert targets.explain_wrong_target("onefile.deeper.Mine", ["onefile"]) == "there is no module onefile.deeper"
    for borrowed in ("onefile.os", "onefile.Popen", "onefile.os.system"):
        assert targets.explain_wrong_target(borrowed, ["onefile"]) is not None
    assert (
        targets.find_extension_problems(["onefile", "mylab"]) == []
        and len(targets.find_extension_problems(["sys", "no.dots", "..", ""])) == 4
    )


def test_an_extension_that_is_not_there(lab):
    assert problems_of(["extensions=[yourlab]"]) == [
        "extensions=[yourlab]: there is no package yourlab to import; put its parent folder on PYTHONPATH, or install it"
    ]
    assert problems_of(["extensions=mylab"]) == ["extensions=mylab: expected a list, as in extensions=[mylab], found text 'mylab'"]
