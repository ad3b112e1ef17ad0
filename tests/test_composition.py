"""Every file below conf/ composes in some experiment, names code that is there, and says neither more nor less than the schema."""

import ast
import dataclasses
import importlib.util
import inspect
import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line_problems import judged, problems_of, said
from schema_walk import everything, leaves

import lexalign
from lexalign.config import schema
from lexalign.config.compose import compose
from lexalign.config.loading import CONF_ONLY, Sources
from lexalign.embedded.world import BELIEFS
from lexalign.errors import ConfigError
from lexalign.rewards import Reward
from lexalign.sweeps import plugins

ROOT = Path(lexalign.__file__).resolve().parent
CONF = ROOT.parent / "conf"
FILES = {file.relative_to(CONF).with_suffix("").as_posix(): yaml.safe_load(file.read_text()) for file in sorted(CONF.rglob("*.yaml"))}
METHODS = {name.removeprefix("method/"): node["method"] for name, node in FILES.items() if name.startswith("method/")}


def found_code(node: Any) -> list[tuple[str, str]]:
    """(key, dotted path) of everything in a file that names code."""
    if isinstance(node, dict):
        own = [(key, value) for key, value in node.items() if key in ("_target_", "settings_class", "converter") and value]
        return own + [pair for value in node.values() for pair in found_code(value)]
    return [pair for item in node for pair in found_code(item)] if isinstance(node, list) else []


CODE = sorted({(name.split("/")[0], key, path) for name, node in FILES.items() for key, path in found_code(node)})


def test_the_glob_finds_the_files():
    groups = {name.split("/")[0] for name in FILES}
    assert groups >= {"config", "stage", "method", "adapter", "model", "data", "hardware", "tracking", "experiment"} and len(FILES) > 35
    assert {"tiny/sft", "tiny/dpo", "tiny/gdpo"} <= {name.removeprefix("experiment/") for name in FILES}


# The embedded models' measured values in conf/tuned/ would stand over a file's own.
UNTUNED = "model=smollm2_135m"


def overrides_for(name: str, own_file: Path) -> list[str]:
    """A command line in which a file of conf/ takes part."""
    group, _, option = name.partition("/")
    choice = [f"{group}={option}"]
    if group in ("config", "tuned"):
        return tuned(option) if option else []
    if group == "hydra":
        kind, _, choice = option.partition("/")
        return [f"hydra/{kind}={choice}"]
    if group == "method":
        return [*choice, f"stage={METHODS[option]['stage']}", UNTUNED]
    if group == "hardware":
        return [*choice, UNTUNED]
    if group == "adapter":
        return [*choice, "stage=align", "model=tiny"]
    if name == "stage/download":
        return [*choice, "model=smollm2_135m"]
    if name in ("stage/evaluate", "stage/export", "stage/chat"):
        return [*choice, "model=tiny"]
    if name in ("model/none", "data/none"):
        return ["stage=download", *choice, "data=alpaca" if group == "model" else "model=smollm2_135m"]
    if group == "data":
        columns = {**FILES["config"]["data"]["columns"], **FILES[name]["columns"]}
        method = "gdpo" if columns["belief"] else "dpo" if columns["chosen"] else "kto" if columns["label"] else None
        stage = ["stage=align", "model=tiny", f"method={method}"] if method else ["stage=sft"]
        own = [f"data.path={own_file}", *(["data.beliefs=[for,against]"] if columns["belief"] else [])]
        return [*choice, *stage, *([] if FILES[name].get("path") else own)]
    return choice


def tuned(option: str) -> list[str]:
    """The model and the method whose measured values a file of conf/tuned/ holds."""
    models = [name.removeprefix("model/") for name in FILES if name.startswith("model/")]
    model, method = next((model, method) for model in models for method in METHODS if f"{model}_{method}" == option)
    return [f"model={model}", f"method={method}", f"stage={METHODS[method]['stage']}"]


@pytest.fixture(scope="module")
def own_file(tmp_path_factory) -> Path:
    """One row with every column, as a user's file."""
    file = tmp_path_factory.mktemp("own") / "rows.jsonl"
    columns = [field.name for field in dataclasses.fields(schema.Columns)]
    file.write_text("{" + ", ".join(f'"{name}": "x"' for name in columns) + "}\n")
    return file


SEVERAL = ("hardware/ddp", "hardware/fsdp", "hardware/deepspeed")


def installed(extra: str) -> bool:
    """Whether the launcher of an extra is there."""
    return {"slurm": "submitit_slurm", "ray": "ray"}[extra] in CONF_ONLY.list_options("hydra/launcher")


@pytest.mark.parametrize("name", FILES)
def test_every_file_composes_in_some_experiment(name, own_file, monkeypatch):
    monkeypatch.setattr("lexalign.config.hardware.count_cuda_devices", lambda: 2 if name in SEVERAL else int(name == "hardware/cuda"))
    monkeypatch.setattr("lexalign.config.hardware.is_torch_cpu_build", lambda: False)
    monkeypatch.setattr("lexalign.config.hardware.has_mps", lambda: name == "hardware/mps")
    # As installed: what conf/model/*_gguf.yaml and the generated data need is not among the requirements.
    monkeypatch.setattr(
        "lexalign.config.paths.locate_in_package", lambda path: lexalign.config.paths.Location(kind="gguf", name=path, path=own_file)
    )
    monkeypatch.setattr("lexalign.config.rules.paths.check_gguf", lambda experiment, path: iter(()))
    monkeypatch.setattr("lexalign.config.rules.tracking.is_installed", lambda package: True)
    for split in ("train", "test"):
        (own_file.parent / f"{split}.jsonl").write_text(own_file.read_text())
    monkeypatch.setattr(
        "lexalign.config.paths.make_generated",
        lambda path, maker, name: lexalign.config.paths.Location(kind="folder", name=path, path=own_file.parent),
    )
    if (extra := {"sweep/slurm": "slurm", "sweep/ray": "ray"}.get(name)) and not installed(extra):
        with pytest.raises(ConfigError, match=rf"pip install 'lexalign\[{extra}\]'"):
            compose(overrides_for(name, own_file))
        return
    if name == "hardware/deepspeed" and importlib.util.find_spec("deepspeed") is None:
        with pytest.raises(ConfigError, match=r"pip install 'lexalign\[deepspeed\]'"):
            compose(overrides_for(name, own_file))
        return
    composed = compose(overrides_for(name, own_file))
    group, _, option = name.partition("/")
    chosen = FILES[name].get(group, FILES[name]) if group in ("model", "data", "hardware", "tracking", "adapter", "method") else {}
    values = {key: value for key, value in chosen.items() if not isinstance(value, dict) and key not in ("path", "beliefs", "defaults")}
    assert values.items() <= composed.tree.get(group, {}).items()
    if group == "tuned":
        assert FILES[name].get("train", {}).items() <= composed.tree["train"].items()


@pytest.mark.parametrize(("group", "key", "path"), CODE)
def test_every_path_to_code_resolves_and_binds(group, key, path):
    from hydra.utils import get_object

    plugins.register()
    found = get_object(path)
    if key == "settings_class":
        assert issubclass(found, schema.Method)
    elif key == "converter":
        inspect.signature(found).bind({})
    elif group == "stage":
        inspect.signature(found).bind("experiment", "out_dir", "tracker")
    elif path.startswith("lexalign.rewards."):
        assert issubclass(found, Reward)
    elif group == "method":
        from lexalign.training.objective import Objective

        trainer = ("experiment", "loaded", "splits", "renderer", "tokens", "out_dir", "callbacks")
        arguments = dict.fromkeys(("method", "renderer") if issubclass(found, Objective) else trainer)
        inspect.signature(found).bind(**arguments)
        with pytest.raises(TypeError):
            inspect.signature(found).bind(**{**arguments, "model": None})
    elif group == "tracking":
        inspect.signature(found).bind("settings", out_dir=1, config={}, run_name="", group=None, job_type="", typed=())
        assert {"__enter__", "__exit__", "log", "summary", "table", "artifact", "starts_from"} <= set(dir(found))


def test_the_schema_and_the_files_have_the_same_settings():
    tree = compose([]).tree
    keys = set()

    def walk(node: Any, where: str) -> None:
        if isinstance(node, dict):
            for name, value in node.items():
                walk(value, f"{where}.{name}".lstrip("."))
        else:
            keys.add(where)

    walk(tree, "")
    assert keys == {key for key, _ in leaves(schema.Experiment)} | {"method.loss_on"}
    for name, method in METHODS.items():
        knobs = getattr(schema, method["settings_class"].removeprefix("lexalign.config.schema."))
        assert {key for key, _ in leaves(knobs)} == set(method) - {"needs"} | {f"needs.{key}" for key in method["needs"]}, name


def test_every_setting_is_explained():
    undocumented = []
    for node in (node for file in (ROOT / "schema").glob("*.py") for node in ast.parse(file.read_text()).body):
        if isinstance(node, ast.ClassDef):
            assert ast.get_docstring(node), node.name
            for field, after in itertools.pairwise([*node.body, None]):
                if isinstance(field, ast.AnnAssign) and not (isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)):
                    undocumented.append(f"{node.name}.{field.target.id}")
    assert undocumented == []


def test_no_setting_has_a_default_outside_the_files():
    classes = [cls for cls in vars(schema).values() if dataclasses.is_dataclass(cls) and cls.__module__.startswith(schema.__name__)]
    assert len(classes) > 10
    assert [field for cls in classes for field in dataclasses.fields(cls) if field.default is not dataclasses.MISSING] == []


# Read by name through a loop over the fields: lexalign.data.columns.list_named.
# The class, and the points of a sweep, are found in the plain tree before there is a dataclass to read.
THROUGH_A_LOOP = {"method.settings_class", "sweep.zip", "sweep.points"} | {
    "data.columns." + field.name for field in dataclasses.fields(schema.Columns)
}


def test_every_setting_is_read_by_something():
    read = set()
    for file in ROOT.rglob("*.py"):
        if file.parent.name != "schema":
            nodes = ast.walk(ast.parse(file.read_text()))
            read |= {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)}
    unread = {key for key, name in everything().items() if name not in read}
    assert unread - THROUGH_A_LOOP == set()


# Which method belongs to which stage, and which adapter each takes: written out, so that a change is one on purpose.
PAIRS = {
    ("sft", "lora"): {"lora"},
    ("sft", "qlora"): {"qlora"},
    ("sft", "full"): {"full"},
    ("align", "dpo"): {"lora", "qlora", "full"},
    ("align", "gdpo"): {"lora", "qlora", "full"},
    ("align", "gdpo_soft"): {"lora", "qlora", "full"},
    ("align", "cdpo_soft"): {"lora", "qlora", "full"},
    ("align", "ipo"): {"lora", "qlora", "full"},
    ("align", "kto"): {"lora", "qlora", "full"},
    ("align", "orpo"): {"lora", "qlora", "full"},
    ("align", "cpo"): {"lora", "qlora", "full"},
    ("align", "simpo"): {"lora", "qlora", "full"},
    ("align", "grpo"): {"lora", "qlora", "full"},
    ("align", "gdpo_rl"): {"lora", "qlora", "full"},
    ("align", "gdpo_flow"): {"lora", "qlora", "full"},
}
KNOWN_METHODS = (
    "lora",
    "qlora",
    "full",
    "dpo",
    "gdpo",
    "gdpo_soft",
    "cdpo_soft",
    "ipo",
    "kto",
    "orpo",
    "cpo",
    "simpo",
    "grpo",
    "gdpo_rl",
    "gdpo_flow",
)


@pytest.mark.parametrize(("stage", "method"), list(itertools.product(("sft", "align"), KNOWN_METHODS)))
def test_the_product_of_stage_method_and_adapter(stage, method):
    accepted = {adapter for adapter in ("lora", "qlora", "full") if not judged(f"stage={stage} method={method} adapter={adapter}", "")}
    assert accepted == PAIRS.get((stage, method), set())


def test_a_method_that_is_new_has_a_row_in_the_table():
    assert {(node["stage"], name) for name, node in METHODS.items()} == set(PAIRS)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", ("sft", "lora", "lora", "embedded:tiny", None, "embedded:tiny_sft")),
        ("stage=sft method=full", ("sft", "full", "full", "embedded:tiny", None, "embedded:tiny_sft")),
        ("method=qlora", ("sft", "qlora", "qlora", "embedded:tiny", None, "embedded:tiny_sft")),
        ("stage=align", ("align", "dpo", "lora", None, "tiny/sft", "embedded:tiny_pairs")),
        ("stage=align method=gdpo", ("align", "gdpo", "lora", None, "tiny/sft", "embedded:tiny_beliefs")),
        ("stage=align method=gdpo adapter=full model=tiny", ("align", "gdpo", "full", "embedded:tiny", None, "embedded:tiny_beliefs")),
        ("stage=align method=kto", ("align", "kto", "lora", None, "tiny/sft", "embedded:tiny_unpaired")),
        ("stage=align method=ipo", ("align", "ipo", "lora", None, "tiny/sft", "embedded:tiny_pairs")),
        ("stage=align method=dpo data=tiny_beliefs", ("align", "dpo", "lora", None, "tiny/sft", "embedded:tiny_beliefs")),
        ("stage=download model=smollm2_135m", ("download", None, None, "HuggingFaceTB/SmolLM2-135M-Instruct", None, None)),
        ("stage=evaluate model=tiny_sft", ("evaluate", None, None, None, "tiny/sft", "embedded:tiny_sft")),
        ("stage=export model=tiny_sft", ("export", None, None, None, "tiny/sft", None)),
        ("stage=chat model=tiny", ("chat", None, None, "embedded:tiny", None, None)),
        ("experiment=tiny/gdpo", ("align", "gdpo", "lora", None, "tiny/sft", "embedded:tiny_beliefs")),
    ],
)
def test_what_follows_from_what(words, expected):
    got = compose(words.split()).experiment
    method, adapter = got.method.name if got.method else None, got.adapter.kind if got.adapter else None
    assert (got.stage.name, method, adapter, got.model.path, got.model.parent, got.data.path) == expected


def test_the_beliefs_are_the_embedded_worlds():
    assert FILES["data/tiny_beliefs"]["beliefs"] == list(BELIEFS)


def test_a_typed_value_wins_over_a_measured_one_and_that_over_the_methods():
    def learning_rate(*words: str) -> float:
        train = compose(["stage=align", *words]).experiment.train
        assert train is not None
        return train.learning_rate

    assert learning_rate("model=qwen3_0_6b") == FILES["method/dpo"]["train"]["learning_rate"]
    assert learning_rate() == FILES["tuned/tiny_sft_dpo"]["train"]["learning_rate"]
    assert learning_rate("train.learning_rate=0.5") == 0.5


def test_one_command_line_leaves_no_trace_on_the_next():
    """Files are read once in a process."""
    before = compose([]).experiment
    assert compose(["seed=5", "data.columns.prompt=question", "train.epochs=9", "data.path=some/hub"]).experiment.seed == 5
    after = compose([]).experiment
    assert dataclasses.replace(after, output_dir=before.output_dir) == before


def test_download_takes_no_method():
    assert said(problems_of("stage=download model=smollm2_135m method=dpo"), "method: is not read by stage=download; leave it out")


BASES = ("data", "model", "hardware", "tracking")
"""Groups whose files have their common values in conf/config.yaml."""


@pytest.mark.parametrize("name", [name for name in FILES if name.split("/")[0] in BASES])
def test_a_file_says_only_what_is_its_own(name):
    base, own = FILES["config"][name.split("/")[0]], FILES[name]
    repeated = [key for key, value in own.items() if key in base and base[key] == value]
    assert repeated == [key for key in repeated if name in ("model/none", "tracking/none")]
    assert not [key for key, value in own.get("columns", {}).items() if value is None]


def test_a_users_data_file_needs_nothing_but_its_path(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.yaml").write_text("path: embedded:tiny_sft\n")
    done = subprocess.run(
        [sys.executable, str(ROOT.parent / "run.py"), "--config-dir", str(tmp_path), "data=mine", "--cfg", "job", "--package", "data"],
        capture_output=True,
        text=True,
    )
    shown = yaml.safe_load(done.stdout)
    assert shown == {**FILES["config"]["data"], "path": "embedded:tiny_sft"}, done.stderr
    said = [problem for problem in refuse(["data=mine"], tmp_path) if "missing" in problem]
    assert said == []


def refuse(words: list[str], folder: Path) -> list[str]:
    """The problems of a command line with a folder of configuration files."""
    try:
        compose(words, Sources((str(folder),)))
    except ConfigError as error:
        return error.problems
    return []
