"""`lexalign schema`: every configuration file of ours is valid, wrong ones are not, and every setting is described."""

import functools
import json
import subprocess
import sys

import jsonschema
import pytest
from schema_walk import everything

from lexalign.commands.json_schema import list_groups, make_schema
from lexalign.config.compose import compose
from lexalign.config.loading import CONF_ONLY
from lexalign.config.paths import CONF

FILES = sorted(str(path.relative_to(CONF).with_suffix("")) for path in CONF.rglob("*.yaml") if path.parent.parent.name != "hydra")


@functools.cache
def validator(group: str | None) -> jsonschema.Draft202012Validator:
    schema = make_schema(group)
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def load(name: str) -> tuple[str | None, dict]:
    """The group whose schema a file follows (None for a whole experiment's), and its tree as Hydra's own loader reads it."""
    from omegaconf import OmegaConf

    text = (CONF / f"{name}.yaml").read_text()
    group = None if "@package _global_" in text or "/" not in name else name.partition("/")[0]
    return group, OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"), resolve=False)


@pytest.mark.parametrize("name", FILES)
def test_every_configuration_file_is_valid(name):
    group, tree = load(name)
    assert [error.message for error in validator(group).iter_errors(tree)] == []


@pytest.mark.parametrize(
    "words",
    [
        "",
        "stage=align method=gdpo",
        "stage=align method=grpo",
        "stage=evaluate model=tiny",
        "hardware=ddp hardware.processes=2",
        "evaluate=false",
    ],
)
def test_what_a_run_records_is_valid(words):
    assert [error.message for error in validator(None).iter_errors(compose(words.split()).tree)] == []


@pytest.mark.parametrize(
    ("group", "tree"),
    [
        (None, {"train": {"learning_rate": -1}}),
        (None, {"train": {"lr": 1}}),
        (None, {"train": {"optimizer": "adam"}}),
        (None, {"seed": "x"}),
        (None, {"seed": 1.5}),
        (None, {"method": {"betta": 1}}),
        (None, {"method": {"settings_class": "lexalign.config.schema.SimpoMethod", "calibration_weight": 1}}),
        (None, {"adapter": {"target_modules": 3}}),
        (None, {"data": {"columns": {"promt": "q"}}}),
        ("data", {"path": 3}),
        ("data", {"data": {"path": "x"}}),
        ("hardware", {"threads": 0}),
    ],
)
def test_wrong_files_are_invalid(group, tree):
    assert not validator(group).is_valid(tree)


@pytest.mark.parametrize(
    "tree",
    [
        {"train": {"learning_rate": "${train.other}"}},
        {"method": {"settings_class": "mylab.Mine", "knob": 3}},
        {"method": None, "adapter": {"target_modules": ["q_proj"]}},
    ],
)
def test_right_files_are_valid(tree):
    assert validator(None).is_valid(tree)


def test_every_setting_is_described():
    schema = make_schema()

    def describe(key: str) -> dict:
        node = schema
        for part in key.split("."):
            refs = [option["$ref"] for option in node.get("anyOf", []) if "$ref" in option and "interpolation" not in option["$ref"]]
            node = schema["$defs"][refs[0].rpartition("/")[2]] if refs else node
            node = node["properties"][part]
        return node

    assert [key for key in everything() if not describe(key)["description"]] == []


def test_the_command_prints_it():
    done = subprocess.run([sys.executable, "-m", "lexalign", "schema", "data"], capture_output=True, text=True)
    assert done.returncode == 0 and json.loads(done.stdout) == json.loads(json.dumps(make_schema("data")))
    wrong = subprocess.run([sys.executable, "-m", "lexalign", "schema", "dato"], capture_output=True, text=True)
    assert wrong.returncode == 2 and "did you mean data?" in wrong.stderr and wrong.stdout == ""


def test_there_is_a_schema_for_each_group_that_has_files():
    folders = {path.name for path in CONF.iterdir() if path.is_dir()} - {"experiment", "tuned", "hydra"}
    assert folders <= set(list_groups()) and CONF_ONLY.is_group("data")
