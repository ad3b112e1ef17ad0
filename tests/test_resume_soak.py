"""`pytest -m soak -n 0 -s`: 200 SIGKILLs, 100 SIGTERMs, 50 races, 50 full disks, and what came of them. SOAK=0.1 does a tenth of that."""

import os
import random
import signal

import interrupted_runs
import pytest
from experiment_runner import result_of
from interrupted_runs import CASES, Case, run_undisturbed, words_of

from lexalign.errors import DiskFull, FolderInUse

pytestmark = pytest.mark.soak
SHARE = float(os.environ.get("SOAK", "1"))
KILLS, TERMS, RACES, FULL = (max(1, round(SHARE * whole)) for whole in (200, 100, 50, 50))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    interrupted_runs.warm_up()
    return tmp_path_factory.mktemp("soak")


def told(name: str, cases: list[Case], whole: Case, number: int) -> None:
    """Hold the cases against the whole, and print one line of the table."""
    lives = [life for case in cases for life in case.lives]
    same = sum(case.weights() == whole.weights() and case.course() == whole.course() for case in cases)
    worst = max(lost for case in cases for lost in case.lost)
    print(f"\n| {name} | {lives.count(number)} | {same} of {len(cases)} | {worst} |", end="", flush=True)
    assert same == len(cases)


@pytest.mark.parametrize(("method", "saving"), CASES)
def test_sigkill(folder, tmp_path, method, saving):
    whole = run_undisturbed(folder, method, saving)
    at = CASES.index((method, saving))
    kills = KILLS // len(CASES) + (at < KILLS % len(CASES))
    if not kills:
        pytest.skip("none of so small a share")
    cases = interrupted_runs.run_killed(whole, tmp_path, random.Random(f"soak {method} {saving}"), kills=kills)
    assert max(lost for case in cases for lost in case.lost) <= interrupted_runs.STEPS_AT_STAKE[saving]
    told(f"SIGKILL: {method}, {saving}", cases, whole, -signal.SIGKILL)


def test_sigterm(folder, tmp_path):
    """At any time of a life, from its first instant to its last."""
    whole, chance = run_undisturbed(folder, "gdpo", "step"), random.Random("soak")
    cases, left = [Case(folder, tmp_path / "0", whole.words)], TERMS
    while left:
        process = cases[-1].start(fate=interrupted_runs.Fate(cpu=chance.uniform(0.02, 1.1) * whole.cpu(), number=signal.SIGTERM))
        code = cases[-1].end(process)
        assert code in (0, 143), cases[-1].said()[-3000:]
        if code == 143:
            left -= 1
            assert not (cases[-1].out_dir / "artifact/manifest.json").exists() or result_of(cases[-1].out_dir)["status"] == "finished"
        elif left:
            cases.append(Case(folder, tmp_path / str(len(cases)), whole.words))
    cases[-1].whole()
    told("SIGTERM: gdpo, step", cases, whole, 143)


def test_races(folder, tmp_path):
    """Four processes for one folder, each time."""
    words = {word.split("=")[0]: word for word in (*words_of("sft", "step"), "train.epochs=1", "train.max_steps=1")}
    for at in range(RACES):
        case = Case(folder, tmp_path / str(at), tuple(words.values()))
        processes = [case.start() for _ in range(4)]
        codes = sorted(case.end(process) for process in processes)
        assert set(codes) <= {0, FolderInUse.exit_code} and case.said().count("artifact: ") == 1, case.said()[-2000:]
    print(f"\n| races of four for one folder | {RACES} | one winner in each | |", end="", flush=True)


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_full_disks(folder, small_disk, method):
    """Each time from another moment of the run on."""
    place, resize = small_disk
    resize("60m")
    whole, count = run_undisturbed(folder, method, "step"), max(1, FULL // 2)
    codes = interrupted_runs.run_on_full_disk(whole, place, random.Random(f"soak {method}").sample(range(1, 300), count))
    met = list(codes.values()).count(DiskFull.exit_code)
    print(f"\n| full disk: {method}, step | {met} of {count} met it | all | |", end="", flush=True)
    assert met > count // 2
