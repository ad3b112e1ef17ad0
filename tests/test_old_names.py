"""What an earlier version wrote goes on: its names for settings and classes, and a run folder that b234d5a made."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from experiment_runner import World

from lexalign.config import aliases, targets
from lexalign.config.compose import compose
from lexalign.errors import ConfigError

ROOT = Path(__file__).resolve().parent.parent
OLD_RUN = Path(__file__).parent / "data" / "run_b234d5a"
WORDS = [
    "stage=align", "method=gdpo", "model=tiny", "adapter.rank=2", "adapter.target_modules=[q_proj]", "train.max_steps=2",
    "evaluate.limit=8", "evaluate.samples=1", "evaluate.draw_prompts=2", "hardware.threads=1",
]  # fmt: skip
"""What was typed for it."""
# Every dotted path in conf/ of b234d5a, and the method of whose file it is.
OLD_PATHS = {
    "lexalign.data.converters.alpaca": None,
    "lexalign.data.converters.global_opinions": None,
    "lexalign.data.converters.hh_dialogue": None,
    "lexalign.data.converters.last_turns": None,
    "lexalign.rewards.ExactMatch": None,
    "lexalign.rewards.Format": None,
    "lexalign.rewards.Length": None,
    **{
        f"lexalign.schema.{name}Method": None
        for name in ("Cpo", "Dpo", "Flow", "Gdpo", "GdpoRl", "Grpo", "Ipo", "Kto", "Orpo", "Sft", "Simpo", "Soft")
    },
    "lexalign.stages.align.run": None,
    "lexalign.stages.chat.run": None,
    "lexalign.stages.download.run": None,
    "lexalign.stages.evaluate.run": None,
    "lexalign.stages.export.run": None,
    "lexalign.stages.sft.run": None,
    "lexalign.tracking.NoTracker": None,
    "lexalign.tracking.TrackioTracker": None,
    "lexalign.tracking.WandbTracker": None,
    "lexalign.trainers.dpo.DPOTrainer": "dpo",
    "lexalign.trainers.flow.FlowTrainer": "gdpo_flow",
    "lexalign.trainers.gdpo.GDPOTrainer": "gdpo",
    "lexalign.trainers.grpo.GDPOTrainer": "gdpo_rl",
    "lexalign.trainers.grpo.GRPOTrainer": "grpo",
    "lexalign.trainers.kto.KTOTrainer": "kto",
    "lexalign.trainers.reference_free.CPOTrainer": "cpo",
    "lexalign.trainers.reference_free.ORPOTrainer": "orpo",
    "lexalign.trainers.reference_free.SimPOTrainer": "simpo",
    "lexalign.trainers.sft.SFTTrainer": "qlora",
    "lexalign.trainers.soft.ConservativeTrainer": "cdpo_soft",
    "lexalign.trainers.soft.GeometricTrainer": "gdpo_soft",
}


@pytest.mark.parametrize("path", OLD_PATHS)
def test_every_path_of_an_earlier_version_leads_somewhere(path):
    now = aliases.rename_path(path, OLD_PATHS[path])
    assert targets.explain_wrong_target(now, [targets.OWN_PACKAGE]) is None
    if (method := OLD_PATHS[path]) is not None:
        settings = compose([f"method={method}", f"stage={'sft' if method == 'qlora' else 'align'}"]).experiment.method
        assert settings is not None and now == settings.target


def test_dpos_trainer_serves_the_methods_that_shared_it():
    assert {aliases.rename_path("lexalign.trainers.dpo.DPOTrainer", name) for name in ("dpo", "mine", None)} == {
        aliases.rename_path("lexalign.trainers.dpo.DPOTrainer", "dpo")
    }


def test_an_earlier_name_is_read_on_the_command_line(capsys):
    aliases.said.clear()
    composed = compose(["stage=align", "method.knobs=lexalign.schema.DpoMethod"])
    assert composed.tree["method"]["settings_class"] == "lexalign.config.schema.DpoMethod" and "knobs" not in composed.tree["method"]
    compose(["stage=align", "method.knobs=lexalign.schema.DpoMethod"])
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and "type method.settings_class=" in said[0] and said[1].endswith("is lexalign.config.schema.DpoMethod now")


OWN_FILE = """
# @package _global_
defaults:
  - override /stage: align
  - override /method: dpo
method:
  knobs: lexalign.schema.DpoMethod
  beta: 0.3
stage:
  _target_: lexalign.stages.align.run
tracking:
  _target_: lexalign.tracking.none.NoTracker
"""


def test_an_earlier_name_is_read_in_a_users_file(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(OWN_FILE.lstrip())
    command = [sys.executable, str(ROOT / "run.py"), "--config-dir", str(tmp_path), "experiment=mine", "dry_run=true", "output_dir=out"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    for line in (
        "method.knobs: is called method.settings_class now",
        "stage._target_=lexalign.stages.align.run: is lexalign.stages.train.run now",
        "tracking._target_=lexalign.tracking.none.NoTracker: is lexalign.tracking.NoTracker now",
    ):
        assert done.stderr.count(line) == 1
    recorded = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
    assert recorded["method"]["settings_class"] == "lexalign.config.schema.DpoMethod" and recorded["method"]["beta"] == 0.3


def test_a_setting_that_did_not_exist_gets_todays_default():
    recorded = compose(["stage=align", "method=gdpo"]).tree
    del recorded["data"]["limit"], recorded["method"]["belief_weight"], recorded["chat"]
    whole, added = aliases.complete_settings(recorded)
    assert whole["data"]["limit"] is None and whole["method"]["belief_weight"] == 1.0
    assert {"data.limit", "method.belief_weight", "chat"} == set(added)


def test_a_method_of_the_users_own_gets_nothing_of_ours():
    recorded = compose(["stage=align", "method=gdpo"]).tree
    recorded["method"] = {"name": "mine", "knob": 3}
    assert aliases.complete_settings(recorded)[0]["method"] == {"name": "mine", "knob": 3}


@pytest.fixture
def old_run(tmp_path):
    return Path(shutil.copytree(OLD_RUN, tmp_path / "run"))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("old-names"))


def test_an_old_run_is_evaluated(world, old_run):
    result, _ = world.run("stage=evaluate", f"model.path={old_run}", "data=tiny_beliefs", "evaluate.limit=8", "evaluate.samples=1")
    then = json.loads((OLD_RUN / "result.json").read_text())["metrics"]["after"]
    assert result.metrics["after"]["reward_accuracy"] == pytest.approx(then["reward_accuracy"])
    assert result.metrics["after"]["belief_jsd"] == pytest.approx(then["belief_jsd"], abs=1e-5)


def test_an_old_run_is_compared(world, old_run):
    done = world.type(f"compare=[{old_run},{old_run}]", "tracking=none")
    assert done.returncode == 0 and "belief_jsd" in done.stdout


def test_an_old_run_is_exported(world, old_run):
    result, _ = world.run("stage=export", f"model.path={old_run}")
    assert result.status == "finished" and (Path(result.artifact) / "model.safetensors").is_file()


def test_a_run_starts_from_an_old_run(world, old_run):
    words = ["stage=align", "method=dpo", f"model.path={old_run}", "model.parent=null", "train.max_steps=1", "evaluate=false"]
    result, out_dir = world.run(*words)
    assert result.status == "finished"
    manifest = json.loads((out_dir / "artifact" / "manifest.json").read_text())
    assert manifest["model"]["files"] and manifest["base"]["path"] == "embedded:tiny"


def test_the_same_command_finds_an_old_run_finished(world, old_run):
    """The method's score was another then, which is refused by name; what did not exist then is no difference."""
    before = (old_run / "result.json").read_bytes()
    with pytest.raises(ConfigError) as refused:
        world.run(*WORDS, out_dir=old_run)
    changed = [problem.split(":")[0].strip() for problem in refused.value.problems[1:-1]]
    assert changed == ["method.score"]
    words = [*WORDS, "method.score=[belief_jsd,reward_accuracy]"]
    result, _ = world.run(*words, out_dir=old_run)
    assert result.status == "finished" and (old_run / "result.json").read_bytes() == before
    with pytest.raises(ConfigError, match="method.beta"):
        world.run(*words, "method.beta=0.25", out_dir=old_run)


def test_an_old_run_is_reproduced_or_says_what_differs(world, old_run):
    done = world.type(f"reproduce={old_run}", "tracking=none", f"store={world.store}", timeout=300)
    assert "Traceback" not in done.stderr and done.returncode in (0, 1)
    assert "input code.lexalign:" in done.stdout and "settings_class" not in done.stdout
    if done.returncode == 0:
        assert "is reproduced" in done.stdout
    else:
        assert "the first input that differs is" in done.stdout
