"""The program as it is installed: the wheel, its command, shell completion, and packages of users that bring configurations."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SHORT = ["tracking=none", "train.max_steps=2", "evaluate.limit=8", "model.parent_overrides=['train.max_steps=2','evaluate=false']"]


def pip(*words: str) -> None:
    """Run pip; without build isolation where setuptools is new enough, so that nothing is fetched."""
    local = int(importlib.metadata.version("setuptools").split(".")[0]) >= 77
    flags = ["--no-build-isolation"] if local else []
    command = [sys.executable, "-m", "pip", words[0], "-q", "--no-deps", "--disable-pip-version-check", *flags, *words[1:]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def run_in(folder: Path, command: list[str], *paths: Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder; Python finds modules in `paths` first."""
    folder.mkdir(exist_ok=True)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=env, timeout=timeout)


def test_every_package_is_listed():
    """Setuptools is given a list, because conf/ stands outside the package; what is missing there would be missing in the wheel."""
    folders = {".".join(file.relative_to(ROOT).parent.parts) for file in (ROOT / "lexalign").rglob("*.py")}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == folders | {"lexalign.conf"}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder that the wheel is installed in."""
    place = tmp_path_factory.mktemp("install")
    source = place / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "constraints.txt"):
        shutil.copy(ROOT / name, source)
    for name in ("lexalign", "conf"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip("wheel", "-w", str(place), str(source))
    (wheel,) = place.glob("*.whl")
    pip("install", "--target", str(place / "site"), str(wheel))
    shutil.rmtree(source)
    return place / "site", wheel


@pytest.mark.slow
def test_the_wheel_holds_what_the_checkout_does(site):
    names = set(zipfile.ZipFile(site[1]).namelist())
    code = {str(path.relative_to(ROOT)) for path in (ROOT / "lexalign").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    settings = {f"lexalign/{path.relative_to(ROOT)}" for path in (ROOT / "conf").rglob("*.yaml")}
    assert (code | settings) - names == set()
    assert any(name.endswith("share/lexalign/constraints.txt") for name in names)
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"lexalign"}


@pytest.mark.slow
def test_the_installed_command_runs_in_another_folder(site, tmp_path):
    place, _ = site
    command = [sys.executable, str(place / "bin" / "lexalign")]
    done = run_in(tmp_path, [*command, "stage=align", "method=gdpo", *SHORT], place)
    assert done.returncode == 0, done.stderr
    (result,) = tmp_path.glob("multirun/*-*-*/*/result.json")
    assert json.loads(result.read_text())["status"] == "finished" and {path.name for path in tmp_path.iterdir()} == {"multirun"}
    module = run_in(tmp_path, [sys.executable, "-m", "lexalign", "dry_run=true", "tracking=none"], place)
    assert module.returncode == 0, module.stderr
    sweep = run_in(tmp_path, [*command, "-m", *SHORT, "stage=align", "method=dpo", "seed=0,1"], place)
    assert sweep.returncode == 0, sweep.stderr
    doctor = run_in(tmp_path, [*command, "doctor"], place)
    assert str(place / "share" / "lexalign" / "constraints.txt") in doctor.stdout and str(place / "lexalign" / "conf") in doctor.stdout
    schema = run_in(tmp_path, [*command, "schema"], place)
    assert "train" in json.loads(schema.stdout)["properties"]


@pytest.mark.parametrize("words", [["run.py"], ["-m", "lexalign"]])
def test_a_checkout_runs_as_a_file_and_as_a_module(words, tmp_path):
    command = [sys.executable, *(str(ROOT / word) if word == "run.py" else word for word in words)]
    done = run_in(tmp_path, [*command, "--cfg", "job", "stage=align"], ROOT)
    assert done.returncode == 0 and "learning_rate" in done.stdout
    refused = run_in(tmp_path, [*command, "seed=x"], ROOT)
    assert refused.returncode == 2 and "seed=x: expected a whole number" in refused.stderr and not list(tmp_path.iterdir())


COMPLETE = """
eval "$({command} -sc install=bash)"
complete_line() {{
    COMP_LINE="$1"; COMP_POINT=${{#1}}; COMP_WORDS=($1); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 )); COMPREPLY=()
    hydra_bash_completion
    echo "${{COMPREPLY[@]}}"
}}
"""
COMPLETED = {
    "met": {"method=", "method."},
    "method=gd": {"method=gdpo", "method=gdpo_flow", "method=gdpo_rl", "method=gdpo_soft"},
    "train.learn": {"train.learning_rate="},
    "stage=align method.be": {"method.beta="},
    "-m data=tiny_b": {"data=tiny_beliefs"},
}


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize("style", ["lexalign", "python run.py"])
def test_bash_completes_groups_options_and_keys(style, tmp_path):
    """Hydra's own completion, for the installed command and for the file of a checkout."""
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "lexalign"
    command.write_text(f"#!{sys.executable}\nfrom lexalign.cli import main\nmain()\n")
    command.chmod(0o755)
    script = COMPLETE.format(command=style) + "\n".join(f'complete_line "{style} {line}"' for line in COMPLETED)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=ROOT, env=env, timeout=120)
    assert [set(line.split()) for line in done.stdout.splitlines()] == list(COMPLETED.values()), done.stderr


PACKAGE = {
    "pyproject.toml": """
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"
[project]
name = "mylab"
version = "0.1"
[project.entry-points."lexalign.configs"]
mylab = "mylab.conf"
[tool.setuptools]
packages = ["mylab", "mylab.conf"]
[tool.setuptools.package-data]
"mylab.conf" = ["**/*.yaml"]
""",
    "mylab/__init__.py": "",
    "mylab/rows.py": """
def convert(row):
    return {"prompt": row["prompt"].upper(), "completion": row["completion"]}
""",
    "mylab/conf/experiment/mylab/quick.yaml": """
# @package _global_
defaults:
  - override /data: mylab_questions
train:
  max_steps: 2
evaluate:
  limit: 8
""",
    "mylab/conf/data/mylab_questions.yaml": """
defaults:
  - tiny_sft
converter: mylab.rows.convert
limit: 32
""",
}


def write_package(folder: Path, **changed: str) -> Path:
    for name, text in {**PACKAGE, **changed}.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.lstrip())
    return folder


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A small package of a user's, installed by pip."""
    place = tmp_path_factory.mktemp("lab")
    pip("install", "--target", str(place / "site"), str(write_package(place / "source")))
    return place / "site"


QUICK = [sys.executable, str(ROOT / "run.py"), "experiment=mylab/quick", "tracking=none"]


def test_a_package_brings_configurations(lab, tmp_path):
    done = run_in(tmp_path, [*QUICK, "extensions=[mylab]"], lab, ROOT)
    assert done.returncode == 0, done.stderr
    (result,) = tmp_path.glob("multirun/*-*-*/*/result.json")
    assert json.loads(result.read_text())["counts"]["train_rows"] == 32
    shown = run_in(tmp_path, [*QUICK, "--cfg", "job"], lab, ROOT)
    assert "converter: mylab.rows.convert" in shown.stdout


def test_a_packages_code_runs_only_where_it_is_typed(lab, tmp_path):
    done = run_in(tmp_path, QUICK, lab, ROOT)
    assert done.returncode == 2 and "data.converter=mylab.rows.convert: code is only taken from lexalign" in done.stderr


def test_a_sweep_composes_from_a_package(lab, tmp_path):
    done = run_in(tmp_path, [*QUICK, "extensions=[mylab]", "-m", "seed=0,x"], lab, ROOT)
    assert done.returncode == 2 and done.stderr.startswith("1 problem") and "seed=x" in done.stderr


def test_a_file_of_a_package_that_would_be_ignored_is_refused(tmp_path):
    pip(
        "install", "--target", str(tmp_path / "site"), str(write_package(tmp_path / "source", **{"mylab/conf/data/pairs.yaml": "limit: 3"}))
    )
    done = run_in(tmp_path / "desk", QUICK, tmp_path / "site", ROOT)
    assert done.returncode == 2 and "data/pairs.yaml is also a file of lexalign" in done.stderr


SEARCH_PATH_PLUGIN = """
from hydra.plugins.search_path_plugin import SearchPathPlugin
class Lab(SearchPathPlugin):
    def manipulate_search_path(self, search_path):
        search_path.append("lab", "file://{folder}")
"""


def test_a_search_path_plugin_of_hydra_brings_configurations_too(tmp_path):
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "lab.yaml").write_text("# @package _global_\nseed: 7\n")
    (tmp_path / "site" / "hydra_plugins").mkdir(parents=True)
    (tmp_path / "site" / "hydra_plugins" / "lab.py").write_text(SEARCH_PATH_PLUGIN.format(folder=tmp_path / "conf"))
    command = [sys.executable, str(ROOT / "run.py"), "experiment=lab", "dry_run=true", "tracking=none", "output_dir=out"]
    done = run_in(tmp_path / "desk", command, tmp_path / "site", ROOT)
    assert done.returncode == 0, done.stderr
    assert "seed: 7" in (tmp_path / "desk" / "out" / "config.yaml").read_text()
