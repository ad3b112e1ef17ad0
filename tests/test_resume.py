"""Killed, stopped, starved, crowded: the run goes on where it was and ends in the same bytes, or says what is wrong."""

import dataclasses
import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import interrupted_runs
import pytest
import torch
from command_line_problems import problems_of, said
from experiment_runner import ROOT, World, result_of
from interrupted_runs import Case, Fate, run_undisturbed, words_of

from lexalign.artifacts import checkpoints, disk, lock, settings_diff
from lexalign.artifacts.manifest import read_manifest, write_manifest
from lexalign.config.compose import compose
from lexalign.errors import ConfigError, DiskFull, FolderInUse, NotFinite
from lexalign.trainers.sft import SftObjective
from lexalign.training import pipeline
from lexalign.training.divergence import LossMonitor
from lexalign.training.trainer import MethodTrainer

SFT = words_of("sft", "step")
IN_CI = (("sft", "step"), ("sft", "packed"), ("dpo", "epoch"), ("gdpo", "eval"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    interrupted_runs.warm_up()
    return tmp_path_factory.mktemp("resume")


@pytest.fixture(scope="module")
def wholes(folder):
    """Undisturbed runs by case, each run once."""
    return functools.cache(functools.partial(run_undisturbed, folder))


@pytest.fixture(scope="module")
def whole(wholes):
    return wholes("sft", "step")


@pytest.fixture
def case(folder, tmp_path):
    """The same run, in another folder."""
    return Case(folder, tmp_path / "run", SFT)


@pytest.fixture
def half(whole, case):
    """A run that was killed at step 10 of 12, as it lies on the disk."""
    shutil.copytree(whole.out_dir / "checkpoints", case.out_dir / "checkpoints")
    shutil.rmtree(case.out_dir / "checkpoints/checkpoint-12")
    return case


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(("method", "saving"), IN_CI)
def test_killed_runs_end_in_the_same_bytes(wholes, method, saving, tmp_path):
    """Twenty SIGKILLs in all, at events of a save and at any time; nobody but the next life takes care of them."""
    whole = wholes(method, saving)
    cases = interrupted_runs.run_killed(whole, tmp_path, random.Random(f"{method} {saving}"), kills=5)
    assert [life for case in cases for life in case.lives].count(-signal.SIGKILL) == 5
    for case in cases:
        assert case.lives[-1] == 0 and max(case.lost) <= interrupted_runs.STEPS_AT_STAKE[saving]
        assert case.weights() == whole.weights()
        assert case.course() == whole.course(), "every logged number, token counts and the mean loss among them"
        assert not list(case.out_dir.rglob(".tmp-*")) and not (case.out_dir / lock.FILE).exists()


def test_sigterm_and_sighup_save_the_step_and_stop(whole, case):
    moments = random.Random(7)
    for number, code in ((signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGTERM, 143)):
        process = case.training()
        time.sleep(moments.uniform(0, 0.2))
        assert case.met(process, number) == code and case.lost[-1] == 0
        assert not (case.out_dir / "artifact").exists()
        assert result_of(case.out_dir)["status"] == "interrupted" and number.name in result_of(case.out_dir)["error"]
    case.whole()
    assert case.weights() == whole.weights() and case.course() == whole.course()
    assert result_of(case.out_dir)["status"] == "finished"


@pytest.mark.slow
def test_sigterm_with_wandb_on(folder, whole, case, own_home):
    """W&B has handlers and processes of its own; the run still saves, exits 143 and goes on."""
    words = [f"output_dir={case.out_dir}", f"store={folder}/store", "tracking.mode=offline", *case.words]
    command = [sys.executable, str(ROOT / "run.py"), *words]
    life = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while life.poll() is None and not interrupted_runs.steps_at_stake(case.out_dir):
        time.sleep(0.01)
    life.send_signal(signal.SIGTERM)
    said_last = life.communicate(timeout=120)[1]
    assert life.returncode == 143 and "SIGTERM" in said_last and interrupted_runs.steps_at_stake(case.out_dir) == 0
    assert subprocess.run(command, cwd=folder, capture_output=True, timeout=300).returncode == 0
    assert case.weights() == whole.weights() and case.course() == whole.course()
    assert len(list((case.out_dir / "wandb").glob("offline-run-*"))) == 2, "one file for each life, of the same run"


def test_sigterm_before_the_training_ends_it_at_once(case):
    process = case.start()
    while not (case.out_dir / "config.yaml").exists():
        time.sleep(0.005)
    assert case.met(process, signal.SIGTERM) == 143
    assert not (case.out_dir / "checkpoints").exists() and result_of(case.out_dir)["status"] == "interrupted"


def test_sigint_once_saves_and_twice_does_not_wait(case):
    long = ("train.gradient_accumulation_steps=40", "train.epochs=200", "train.max_steps=3")  # many batches to a step
    words = {word.split("=")[0]: word for word in (*case.words, *long)}
    case.words = tuple(words.values())
    assert case.met(case.training(), signal.SIGINT) == 130
    saved = interrupted_runs.newest(case.out_dir)
    assert saved >= 1 and case.lost == [0]
    process = case.start()
    while process.is_alive() and f": step {saved}/" not in "".join(case.said().split("A life begins")[2:]):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    time.sleep(0.1)
    assert case.met(process, signal.SIGINT) == 130, case.said()[-2000:]
    assert interrupted_runs.newest(case.out_dir) == saved, "it did not wait for the step"


def test_stop_after_saves_and_stops(whole, case):
    process = case.start("train.stop_after=0.001")
    assert case.end(process) == 143
    assert interrupted_runs.newest(case.out_dir) == 1 and result_of(case.out_dir)["status"] == "stopped"
    assert "stop_after" in result_of(case.out_dir)["error"]
    assert case.whole().weights() == whole.weights()


def test_finished_run_is_not_touched(folder, whole, capsys):
    before = snapshot(whole.out_dir)
    result, _ = World(folder).run(*whole.words, out_dir=whole.out_dir)
    assert snapshot(whole.out_dir) == before
    assert dataclasses.asdict(result) == {**result_of(whole.out_dir), "intervals": result.intervals}
    assert "finished already" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["missing", "empty", "half", "one bit"])
def test_every_damaged_file_is_seen(half, damage, caplog):
    """Each file of a checkpoint in turn: it is put aside by name, and the one before it is found."""
    newest = half.out_dir / "checkpoints/checkpoint-10"
    shutil.copytree(newest, before := newest.with_name("checkpoint-8"))
    manifest = read_manifest(before)
    write_manifest(before, {**{key: manifest[key] for key in ("kind", "settings", "model", "data")}, "step": 8})
    names = sorted(path.name for path in newest.iterdir())
    assert {"manifest.json", "optimizer.pt", "scheduler.pt", "rng_state.pth", "adapter_model.safetensors", "carried.pt"} <= set(names)
    for name in names:
        kept = (newest / name).read_bytes()
        spoil(newest / name, damage)
        caplog.clear()
        assert checkpoints.find_newest_whole(newest.parent, own=True) == before, name
        assert name in caplog.text and not newest.exists()
        aside = newest.with_name(".damaged-checkpoint-10").rename(newest)
        (aside / name).write_bytes(kept)
        assert checkpoints.inspect_checkpoint(newest) is None


def spoil(file: Path, damage: str) -> None:
    content = bytearray(file.read_bytes())
    if damage == "missing":
        file.unlink()
        return
    if damage == "one bit":
        content[len(content) // 3] ^= 1
    file.write_bytes({"empty": b"", "half": content[: len(content) // 2], "one bit": content}[damage])


def test_a_damaged_checkpoint_costs_its_steps_and_nothing_else(half, whole):
    """None whole is left: the run begins anew and says why."""
    for checkpoint in (half.out_dir / "checkpoints").iterdir():
        spoil(checkpoint / "optimizer.pt", "one bit")
    half.whole()
    assert half.said().count("is damaged and not used") == 1 and "optimizer.pt is not the file that was saved" in half.said()
    assert "Going on from" not in half.said() and half.weights() == whole.weights()


def test_a_checkpoint_is_no_model(half):
    with pytest.raises(ConfigError, match="is a checkpoint of a run that is not finished; go on with it: resume="):
        World(half.world).run(f"model.path={half.out_dir}/checkpoints/checkpoint-10", *SFT, out_dir=half.out_dir / "other")


@pytest.mark.parametrize(
    ("typed", "key", "change"),
    [
        ("train.learning_rate=1e-3", "train.learning_rate", "0.003 -> 0.001"),
        ("seed=1", "seed", "0 -> 1"),
        ("train.batch_size=2", "train.batch_size", "4 -> 2"),
        ("train.epochs=3", "train.epochs", "2.0 -> 3.0"),
        ("train.scheduler=cosine", "train.scheduler", "linear -> cosine"),
        ("adapter.rank=4", "adapter.rank", "16 -> 4"),
        ("data.limit=20", "data.limit", "24 -> 20"),
        ("method=full", "method.name", "lora -> full"),
        ("train.fast_path=false", "train.fast_path", "true -> false"),
    ],
)
def test_other_settings_are_refused_with_a_diff(half, typed, key, change):
    name = typed.split("=")[0]
    words = [word for word in SFT if word.split("=")[0] != name and not (name == "method" and word.startswith("adapter"))]
    before = snapshot(half.out_dir / "checkpoints")
    with pytest.raises(ConfigError) as refused:
        World(half.world).run(*words, typed, out_dir=half.out_dir)
    assert f"  {key}: {change}" in refused.value.problems
    assert "resume_allow=[" in refused.value.problems[-1] and key in refused.value.problems[-1]
    assert snapshot(half.out_dir / "checkpoints") == before and not (half.out_dir / "result.json").exists()


def test_other_content_under_the_same_name_is_refused(half, whole, tmp_path):
    """Neither data nor model are known by their path."""
    rows = [json.dumps({"prompt": f"Where is {at}?", "completion": f"In {at}."}) for at in range(24)]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(rows))
    words = (*(word for word in SFT if not word.startswith("data")), "data=instructions", f"data.path={file}", "data.eval_split=null")
    case = Case(half.world, tmp_path / "mine", words)
    assert case.end(case.start("train.stop_after=0.001")) == 143, case.said()
    file.write_text("\n".join(rows[:-1] + [rows[0]]))
    with pytest.raises(ConfigError, match="  data: train [0-9a-f]{12} -> [0-9a-f]{12}"):
        World(half.world).run(*words, out_dir=case.out_dir)
    file.write_text("\n".join(rows))
    shutil.copytree(ROOT / "lexalign/embedded/tiny", model := tmp_path / "tiny")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-3}))
    with pytest.raises(ConfigError, match=r"  model: config.json [0-9a-f]{12} -> [0-9a-f]{12}"):
        World(half.world).run(*words, f"model.path={model}", out_dir=case.out_dir)


def test_what_is_allowed_is_said_and_what_does_not_matter_is_not_compared(half):
    words = [word for word in SFT if not word.startswith(("train.keep", "train.log"))]
    world = World(half.world)
    result, _ = world.run(
        *words,
        "train.learning_rate=1e-3",
        "resume_allow=[train.learning_rate]",
        "train.keep_checkpoints=1",
        "verbose=true",
        out_dir=half.out_dir,
    )
    log = (half.out_dir / "run.log").read_text()
    assert result.status == "finished" and "Going on with other settings (resume_allow): train.learning_rate: 0.003 -> 0.001" in log
    assert f"Going on from {half.out_dir}/checkpoints/checkpoint-10" in log
    with pytest.raises(ConfigError, match="holds a run that was finished with other settings"):
        world.run(*SFT, out_dir=half.out_dir)
    with pytest.raises(ConfigError, match="resume=never: .* already holds a run"):
        world.run(*words, "train.learning_rate=1e-3", "resume=never", out_dir=half.out_dir)


def test_resume_allow_names_what_is_compared():
    for typed, fragments in {
        "resume_allow=[train.lerning_rate]": ["train.lerning_rate is nothing that a resumed run is compared by", "train.learning_rate?"],
        "resume_allow=[tracking.project]": ["tracking.project is nothing"],
        "resume_allow=[evaluate.limit]": ["evaluate.limit is nothing"],
        "resume_allow=[seed] resume=never": ["resume_allow: is not read with resume=never"],
        "resume_allow=seed": ["resume_allow=seed: expected a list"],
    }.items():
        assert said(problems_of(typed), *fragments), typed
    assert problems_of("resume_allow=[train,model,data,method,seed,train.learning_rate,data.columns]") == []


def test_changes_are_told_by_key():
    made_of = {"settings": {"train": {"epochs": 1.0}, "method": {"target": "a"}}, "model": {"files": {"w": "1" * 64}}, "data": {}}
    other = {"settings": {"train": {"epochs": 2.0}, "method": {"target": "b"}}, "model": {"files": {"v": "2" * 64}}, "data": {}}
    assert settings_diff.diff_settings(made_of, made_of) == {}
    assert settings_diff.diff_settings(made_of, other) == {
        "train.epochs": "1.0 -> 2.0",
        "method._target_": "a -> b",
        "model": f"v (absent) -> {'2' * 12}, w {'1' * 12} -> (absent)",
    }


def test_one_of_many_runs_in_a_folder(case):
    """Six begin at once; one runs, the others are told which."""
    processes = [case.start() for _ in range(6)]
    for process in processes:
        process.join(300)
    codes = [process.exitcode for process in processes]
    assert sorted(codes) == [0, *[FolderInUse.exit_code] * 5]
    winner = processes[codes.index(0)].pid
    assert case.said().count(f"process {winner} on ") == 5
    assert result_of(case.out_dir)["status"] == "finished"


def test_a_lock_is_taken_over_from_the_dead_of_this_host_only(tmp_path, half):
    with lock.hold_lock(tmp_path):
        written = (tmp_path / lock.FILE).read_text()
    pid, host, *rest = written.split("\n")
    ended = subprocess.Popen(["true"])
    ended.wait()
    (tmp_path / lock.FILE).write_text("\n".join([str(ended.pid), host, *rest]))
    with lock.hold_lock(tmp_path) as left_by:
        assert left_by == f"process {ended.pid} on {host.partition('?')[0]}"
    (tmp_path / lock.FILE).write_text("\n".join([str(ended.pid), "elsewhere", *rest]))
    with pytest.raises(FolderInUse, match=f"process {ended.pid} on elsewhere writes here now"), lock.hold_lock(tmp_path):
        pass
    (half.out_dir / lock.FILE).write_text("\n".join([str(ended.pid), host, *rest]))
    half.whole()
    assert f"process {ended.pid} on" in half.said() and "is taken over" in half.said()


def test_a_lock_without_a_name_is_left_by_a_process_killed_between_making_and_writing_it(tmp_path, monkeypatch):
    """filelock keeps it for good, and a sweep that waits for such a job would wait for good, too."""
    empty = tmp_path / lock.FILE
    empty.touch()
    assert not lock.is_alive(tmp_path) and not empty.exists()
    empty.touch()
    with lock.hold_lock(tmp_path) as left_by:
        assert left_by is None and str(os.getpid()) in empty.read_text()
        assert lock.is_alive(tmp_path)
    empty.touch()
    writer = threading.Timer(0.5, empty.write_text, ["1\nelsewhere\n"])
    writer.start()
    with pytest.raises(FolderInUse, match="process 1 on elsewhere"), lock.hold_lock(tmp_path):
        pass
    empty.write_text("")
    monkeypatch.setattr("lexalign.artifacts.file_systems.get_network_file_system", lambda folder: "nfs")
    writer = threading.Timer(lock.NAMING + 1, empty.write_text, ["1\nelsewhere\n"])
    writer.start()
    assert lock.is_alive(tmp_path), "another machine's name is seen later"


def test_a_signal_does_not_wait_for_a_thread_that_nobody_tells_to_end():
    """As it is left where the signal comes while a library starts a thread; Python would wait for it for good."""
    script = """
import queue, sys, threading
from lexalign.training import signals
threading.Thread(target=queue.SimpleQueue().get).start()
print("said", end="")
signals.exit_now(143)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (143, "said")


def test_nan_stops_before_the_step_and_names_its_row(tmp_path, monkeypatch):
    """One poisonous row: the checkpoint before is kept, nothing of the step is saved, and the row is named."""
    measured = MethodTrainer.compute_loss

    def poisoned(self, model, inputs, *args, **kwargs):
        loss = measured(self, model, inputs, *args, **kwargs)
        return loss * float("nan") if poison in inputs["input_ids"].flatten().tolist() else loss

    monkeypatch.setattr(MethodTrainer, "compute_loss", poisoned)
    tokenizer = training_tokenizer()
    rows = [
        {"prompt": f"Where does {name} live?", "completion": "Here."} for name in ("Anna", "Bela", "Cora", "Dora", "Emil", "Fay", "Gil")
    ]
    poison = rare(tokenizer, [row["prompt"] for row in rows], of=4)
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    words = (
        "data=instructions",
        f"data.path={tmp_path}/rows.jsonl",
        "data.eval_split=null",
        "evaluate.enabled=false",
        "hardware.threads=1",
    )
    with pytest.raises(NotFinite) as stopped:
        World(tmp_path).run(*words, "train.batch_size=2", "train.save_steps=1", "train.epochs=3", out_dir=tmp_path / "run")
    message = str(stopped.value)
    step = int(message.split(":")[0].removeprefix("step "))
    assert "the loss is nan" in message and "Rows of this step: 4 (" in message and "Emil" in message and "Fay" not in message
    assert stopped.value.exit_code == NotFinite.exit_code and result_of(tmp_path / "run")["status"] == "failed"
    assert "the loss is nan" in result_of(tmp_path / "run")["error"]
    assert interrupted_runs.newest(tmp_path / "run") == step - 1 and not (tmp_path / "run/artifact").exists()


def training_tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(ROOT / "lexalign/embedded/tiny")


def rare(tokenizer, texts: list[str], *, of: int) -> int:
    """A token that only one of the texts has."""
    own, *others = [set(tokenizer(text)["input_ids"]) for text in [texts[of], *texts[:of], *texts[of + 1 :]]]
    return min(own - set().union(*others))


def test_weights_that_overflow_are_not_saved(tmp_path):
    """A step so long that it leaves the numbers: what it made is not saved, the error says so."""
    with pytest.raises(NotFinite, match=r"step \d: .* (NaN|nan|inf)"):
        World(tmp_path).run(*SFT, "train.learning_rate=1e38", "train.warmup_steps=0", "train.max_steps=4", out_dir=tmp_path / "run")
    for checkpoint in checkpoints.list_checkpoints(tmp_path / "run/checkpoints"):
        from safetensors.torch import load_file

        assert all(bool(value.isfinite().all()) for value in load_file(checkpoint / "adapter_model.safetensors").values())


def test_a_loss_that_runs_away_is_seen(caplog):
    train = compose(["train.divergence_factor=3", "train.divergence_steps=4"]).experiment.train
    calm = [1 + 0.3 * random.Random(at).random() for at in range(60)]

    def course(losses, divergence):
        judged = LossMonitor(dataclasses.replace(train, divergence=divergence))
        for step, loss in enumerate(losses, 1):
            judged.add(step, loss)

    course([*calm, 9, 9, 9, 1, *calm], "stop")  # three are no divergence
    course([*calm, *[9.0] * 50], "ignore")
    with pytest.raises(NotFinite, match="step 64: the loss .9. is above 3 times its running median"):
        course([*calm, *[9.0] * 50], "stop")
    course([*calm, *[9.0] * 10], "warn")
    assert caplog.text.count("is above 3 times its running median") == 1
    with pytest.raises(NotFinite):
        course([-2.0] * 30 + [3.0] * 9, "stop")


def test_full_disk_by_its_quota(whole, case):
    """From the first checkpoint on, no file may grow over 600 kB, as under a quota: the next save fails, and what is there is whole."""
    code = case.end(case.start(fate=Fate(largest_file=600_000)))
    assert code == DiskFull.exit_code, case.said()[-2000:]
    assert "checkpoint-4 needs " in case.said() and f"MB at {case.out_dir}/checkpoints" in case.said()
    assert interrupted_runs.newest(case.out_dir) == 2 and checkpoints.inspect_checkpoint(case.out_dir / "checkpoints/checkpoint-2") is None
    assert result_of(case.out_dir)["status"] == "failed" and not list(case.out_dir.rglob(".tmp-*"))
    case.whole()
    assert "Going on from" in case.said() and case.weights() == whole.weights()


def test_full_disk_itself(folder, whole, small_disk):
    """Said in numbers before anything is written; the run goes on once there is room."""
    place, resize = small_disk
    case = Case(folder, place / "run", SFT)
    filler = place / "filler"
    filler.write_bytes(b"x" * 1_500_000)
    assert case.end(case.start()) == DiskFull.exit_code, case.said()[-2000:]
    reached = interrupted_runs.newest(case.out_dir)
    assert reached >= 2 and checkpoints.inspect_checkpoint(case.out_dir / f"checkpoints/checkpoint-{reached}") is None
    assert " MB, there are " in case.said() and f" MB at {place}/run" in case.said()
    filler.unlink()
    resize("40m")
    assert case.whole().weights() == whole.weights()
    assert f"checkpoint-{reached}" in case.said()


@pytest.mark.slow
def test_answers_that_were_drawn_for_several_steps_go_on_too(folder, tmp_path):
    """Killed three times among steps that train on the same answers: grpo keeps these in the checkpoint."""
    words = {word.split("=")[0]: word for word in (*words_of("sft", "step"), "stage=align", "method=grpo", "model=tiny",
                                                  "method.rewards=[{_target_:lexalign.rewards.Length,target:10}]", "method.iterations=2",
                                                  "train.max_steps=6", "train.save_steps=1", "train.batch_size=8")}  # fmt: skip
    del words["train.epochs"], words["adapter.dropout"]
    whole = Case(folder, tmp_path / "whole", tuple(words.values())).whole()
    assert sum(line.get("grad_norm", 0) > 0 for line in whole.course()) >= 2
    run = Case(folder, tmp_path / "run", whole.words)
    for _ in range(3):
        process = run.training()
        assert run.met(process, signal.SIGKILL) == -signal.SIGKILL
    assert run.whole().weights() == whole.weights() and run.course() == whole.course()


@pytest.mark.slow
def test_what_others_add_to_the_store_meanwhile_changes_no_bit(tmp_path):
    """Another run computes the same rows' reference in other batches, between a kill and the next life: last bits differ, and are not
    taken."""
    words = {word.split("=")[0]: word for word in (*words_of("dpo", "step"), "data.limit=60", "train.max_steps=8")}
    interrupted_runs.warm_up()
    whole = Case(tmp_path / "a", tmp_path / "whole", tuple(words.values())).whole()
    run = Case(tmp_path / "b", tmp_path / "run", whole.words)
    process = run.training()
    while process.is_alive() and interrupted_runs.newest(run.out_dir) < 2:
        time.sleep(0.01)
    assert run.met(process, signal.SIGKILL) == -signal.SIGKILL
    other = {**words, "train.batch_size": "train.batch_size=5", "train.max_steps": "train.max_steps=20"}
    Case(tmp_path / "b", tmp_path / "other", tuple(other.values())).whole()
    assert run.whole().weights() == whole.weights() and run.course() == whole.course()


@pytest.mark.slow
def test_full_disk_at_any_moment(whole, small_disk):
    """From the first file of the run to its last: said as what it is, nothing lost, and the run goes on once there is room."""
    place, resize = small_disk
    resize("40m")
    codes = interrupted_runs.run_on_full_disk(whole, place, random.Random(0).sample(range(1, 260), 8))
    assert list(codes.values()).count(DiskFull.exit_code) > 4


def test_errors_of_a_full_disk_are_told_from_others(tmp_path):
    with (
        pytest.raises(DiskFull, match="x needs 1,000,000,000,000.0 MB, there are [0-9.,]+ MB at"),
        disk.require_space(10**18, tmp_path, what="x"),
    ):
        pass
    for error in (
        OSError(28, "No space left on device"),
        OSError(122, "Disk quota exceeded"),
        RuntimeError("basic_ios::clear: iostream error"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"),
    ):
        with (
            pytest.raises(DiskFull, match="x needs 0.0 MB, .*Free some space and type the same command again"),
            disk.require_space(1, tmp_path, what="x"),
        ):
            raise error
    for other in (OSError(13, "Permission denied"), RuntimeError("size mismatch")):
        with pytest.raises(type(other), match=str(other.args[-1])), disk.require_space(1, tmp_path, what="x"):
            raise other


class HeadObjective(SftObjective):
    """A method with a weight of its own beside the adapter, as some losses have."""

    def setup(self, trainer):
        self.model = trainer.model
        self.model.register_parameter("head", torch.nn.Parameter(torch.ones(())))

    def compute(self, scores):
        output = super().compute(scores)
        return dataclasses.replace(output, token_loss=output.token_loss * self.model.head.exp())


def test_weights_beside_the_adapter_go_on_too(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "get_method_class", lambda experiment: HeadObjective)
    words = (*(word for word in SFT if not word.startswith("train.keep")), "train.keep_checkpoints=9", "train.max_steps=4")
    whole, first = World(folder).run(*words, out_dir=tmp_path / "whole")
    second = tmp_path / "second"
    shutil.copytree(first / "checkpoints/checkpoint-2", second / "checkpoints/checkpoint-2")
    resumed, _ = World(folder).run(*words, out_dir=second)
    weights = [(Path(result.artifact) / "adapter_model.safetensors").read_bytes() for result in (whole, resumed)]
    assert weights[0] == weights[1]


SWEEP = (
    "-m", "stage=align", "seed=0,1", "output_dir=sweep", "store=store", "tracking=none", "evaluate.limit=4", "data.limit=16",
    "train.max_steps=2", "train.max_length=96", "hardware.threads=1",
    "model.parent_overrides=['train.max_steps=20','train.save_steps=5','evaluate.enabled=false','hardware.threads=1']",
)  # fmt: skip


@pytest.mark.slow
def test_a_sweep_stops_whole_and_goes_on(tmp_path):
    """As typed: SIGTERM while the parent trains that the jobs wait for; typed again, it goes on; once more, nothing is run."""
    world = World(tmp_path)
    process = subprocess.Popen([sys.executable, str(ROOT / "run.py"), *SWEEP], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("store/parents/*/metrics.jsonl")) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 143, errors
    assert "SIGTERM: finishing the step and saving" in errors and "goes on" in errors
    (parent,) = (tmp_path / "store/parents").iterdir()
    assert result_of(parent)["status"] == "interrupted"
    assert not (parent / "artifact").exists() and not (tmp_path / "sweep/0").exists()
    done = world.type(*SWEEP)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Going on from" in (parent / "run.log").read_text()
    jobs = [tmp_path / "sweep" / str(number) for number in range(2)]
    before = [snapshot(job) for job in jobs]
    again = world.type(*SWEEP)
    assert again.returncode == 0 and "2 finished before, 0 to run" in again.stderr
    assert [snapshot(job) for job in jobs] == before
