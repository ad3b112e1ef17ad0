"""How sure a number is: intervals against what statistics knows, and two runs held against each other."""

import json
import math
import random
from pathlib import Path

import pytest
import yaml
from experiment_runner import World
from hypothesis import given, settings
from hypothesis import strategies as st
from sweep_folders import finished, swept

from lexalign.errors import ConfigError
from lexalign.evaluation import compare
from lexalign.evaluation.intervals import RowValues, bootstrap_difference, bootstrap_interval
from lexalign.sweeps import comparison

values = st.lists(st.floats(-5, 5), min_size=1, max_size=30)


@settings(max_examples=30, deadline=None)
@given(values)
def test_an_interval_lies_within_the_values_and_is_the_same_each_time(found):
    low, high = bootstrap_interval(RowValues(values=found))
    share = RowValues(values=found).is_share  # Wilson's interval goes beyond the rows: tests/test_intervals.py
    assert low <= high and (share or min(found) - 1e-9 <= low <= high <= max(found) + 1e-9)
    assert bootstrap_interval(RowValues(values=found)) == (low, high)


def test_the_interval_of_a_mean_is_the_textbook_one():
    """For many rows the bootstrap comes to mean ± 1.96 standard errors."""
    chance = random.Random(0)
    found = [chance.gauss(1, 2) for _ in range(400)]
    mean = sum(found) / 400
    error = math.sqrt(sum((x - mean) ** 2 for x in found) / 400) / 20
    low, high = bootstrap_interval(RowValues(values=found))
    assert low == pytest.approx(mean - 1.96 * error, abs=0.2 * error) and high == pytest.approx(mean + 1.96 * error, abs=0.2 * error)


def test_it_covers_the_truth_about_as_often_as_it_says():
    chance = random.Random(1)
    covered = 0
    for _ in range(100):
        low, high = bootstrap_interval(RowValues(values=[chance.gauss(0, 1) for _ in range(40)]))
        covered += low <= 0 <= high
    assert 85 <= covered <= 100


@settings(max_examples=20, deadline=None)
@given(values, st.floats(0.1, 3))
def test_pairing_sees_a_small_shift_in_noisy_rows(found, shift):
    apart, low, high = bootstrap_difference(RowValues(values=found), RowValues(values=[x + shift for x in found]))
    assert apart == pytest.approx(shift) and low == pytest.approx(shift) and high == pytest.approx(shift)
    assert bootstrap_difference(RowValues(values=found), RowValues(values=found)) == (0, 0, 0)


def test_weights_make_the_mean_of_all_tokens():
    assert RowValues(values=[1.0, 4.0], weights=[3.0, 1.0]).mean() == 1.75
    assert RowValues(values=[1.0], weights=[0.0]).mean() == 0


def test_perplexity_is_exp_of_the_weighted_mean_and_so_is_its_interval():
    losses, tokens = [0.5, 2.0, 1.0, 0.25], [10.0, 1.0, 5.0, 20.0]
    loss = RowValues(values=losses, weights=tokens)
    perplexity = RowValues(values=losses, weights=tokens, exponential=True)
    assert perplexity.mean() == pytest.approx(math.exp((5 + 2 + 5 + 5) / 36))
    assert bootstrap_interval(perplexity) == pytest.approx(tuple(math.exp(bound) for bound in bootstrap_interval(loss)))


def test_a_number_stated_by_another_program_keeps_its_error():
    stated = RowValues(values=[0.6], stderr=0.05, count=100)
    assert stated.n == 100 and bootstrap_interval(stated) == pytest.approx((0.6 - 0.098, 0.6 + 0.098))
    apart, low, high = bootstrap_difference(stated, RowValues(values=[0.7], stderr=0.05, count=100))
    assert apart == pytest.approx(0.1) and high - apart == apart - low == pytest.approx(1.96 * math.sqrt(2) * 0.05)
    assert bootstrap_difference(stated, RowValues(values=[0.7], count=100))[1:] == (-math.inf, math.inf)


def test_a_row_without_weight_is_not_counted():
    assert RowValues(values=[1.0, 0.5, 0.0], weights=[1.0, 0.0, 1.0]).n == 2 and RowValues(values=[1.0, 0.5]).n == 2


@pytest.mark.parametrize(
    ("name", "low", "high", "said"),
    [("loss", -1, 1, "noise"), ("loss", -2, -1, "better"), ("exact_match", -2, -1, "worse"), ("exact_match", 1, 2, "better"),
     ("reward_margin", 1, 2, "higher"), ("reward_margin", -2, -1, "lower"), ("loss", 0, 0, "noise"),
     ("belief_jsd", -3e-8, -1e-8, "noise"), ("perplexity", -2, -1, "better")],
)  # fmt: skip
def test_what_an_interval_says(name, low, high, said):
    assert compare.judge_difference(name, low, high) == said


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("compare"))


@pytest.fixture(scope="module")
def runs(world):
    """Two sft runs, one hardly trained, and one measured on fewer rows."""
    common = ("stage=sft", "hardware.threads=1", "evaluate.samples=0", "evaluate.draws=1", "evaluate.max_new_tokens=16")
    few, many, other = (
        world.run(*common, f"train.max_steps={steps}", f"evaluate.limit={limit}")[1] for steps, limit in ((2, 60), (60, 60), (2, 30))
    )
    return few, many, other


def test_a_run_leaves_its_measurements_row_by_row(runs):
    found = json.loads((runs[0] / compare.FILE).read_text())
    result = json.loads((runs[0] / "result.json").read_text())
    for name, table in found["after"].items():
        assert len(table["values"]) == result["n"][name] == (60 if name in ("loss", "perplexity", "exact_match") else 32)
        assert RowValues(**table).mean() == pytest.approx(result["metrics"]["after"][name])
        low, high = result["intervals"][name]
        assert low <= result["metrics"]["after"][name] <= high


def test_two_runs_on_the_command_line(world, runs):
    few, many, _ = runs
    done = world.type(f"compare=[{few},{many}]", env={"COLUMNS": "240"})
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.strip("│ ").startswith("loss")]
    assert "better" in line and " 60 " in line
    assert not (world.folder / "multirun").exists(), "nothing was run"


def test_a_run_against_itself_is_noise(runs, capsys):
    compare.show_comparison([str(runs[0]), str(runs[0])])
    printed = capsys.readouterr().out
    assert "noise" in printed and "better" not in printed and "worse" not in printed


def test_what_cannot_be_compared_is_refused(world, runs, tmp_path):
    few, _, other = runs
    with pytest.raises(ConfigError, match="was measured on other rows"):
        compare.show_comparison([str(few), str(other)])
    with pytest.raises(ConfigError, match=r"holds no measurements.json; name the folder of a finished"):
        compare.show_comparison([str(few), str(tmp_path)])
    done = world.type(f"compare=[{few}]")
    assert done.returncode == 2 and "name two runs or more" in done.stderr


def make_run(folder: Path, seed: int, values: list[float], **settings: object) -> str:
    """A run's folder as `compare` reads it: its settings, and one metric row by row."""
    folder.mkdir(parents=True)
    tree = {
        "seed": seed,
        "output_dir": str(folder),
        "train": {"learning_rate": 1e-3},
        "model": {"path": "x", "parent": "tiny/sft"},
        **settings,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(tree))
    table = {"values": values, "weights": None, "exponential": False, "stderr": None, "count": None}
    (folder / compare.FILE).write_text(json.dumps({"rows": "ab", "before": {}, "after": {"exact_match": table}}))
    return str(folder)


def test_runs_that_differ_in_the_seed_are_one_point(tmp_path, capsys):
    chance = random.Random(0)
    rows = [chance.random() for _ in range(50)]
    runs = [
        make_run(tmp_path / f"{name}{seed}", seed, [x + gap + chance.gauss(0, 0.02) for x in rows], method={"name": name})
        for name, gap in (("dpo", 0.0), ("gdpo", 0.3))
        for seed in range(3)
    ]
    compare.show_comparison(runs)
    printed = capsys.readouterr().out
    assert printed.count("against") == 2 and "Means over seeds (3 against 3)" in printed, "one table, and what its intervals cover"
    assert "better" in printed and compare.ONE_SEED[:20] not in printed
    compare.show_comparison([runs[0], runs[3]])
    assert "One seed each" in capsys.readouterr().out
    compare.show_comparison(runs[:2])
    assert "differ in nothing but the seed" in capsys.readouterr().out


def test_seeds_that_start_from_runs_of_their_own_are_one_point(tmp_path):
    parents = [make_run(tmp_path / f"sft{seed}", seed, [0.1, 0.2]) for seed in (0, 1)]
    other = make_run(tmp_path / "other", 0, [0.1, 0.2], train={"learning_rate": 1.0})
    starts = [Path(parents[0]) / "artifact", Path(parents[1]), Path(other)]
    runs = [make_run(tmp_path / f"dpo{at}", at, [0.1, 0.2], model={"path": str(start), "parent": None}) for at, start in enumerate(starts)]
    assert [len(point.runs) for point in compare.pool_points(runs)] == [2, 1]


def test_a_sweep_stands_for_its_points(tmp_path):
    folders = [make_run(tmp_path / "sweep" / str(number), number % 2, [0.1, 0.2 + number]) for number in range(3)]
    jobs = [finished(number, 0.5, seed=number % 2) for number in range(3)]
    jobs[2].state = "failed"
    swept(tmp_path / "sweep", jobs)
    assert comparison.list_runs([str(tmp_path / "sweep")]) == folders[:2]
    assert comparison.list_runs(["a", "a"]) == ["a", "a"], "a run against itself is the user's choice"
    swept(tmp_path / "empty", [])
    with pytest.raises(ConfigError, match="is a sweep without a finished point"):
        comparison.list_runs([str(tmp_path / "empty")])


@pytest.mark.parametrize("text", ["", "[]", '{"rows": 1}', '{"rows": "ab", "after": {"x": {"values": 3, "wrong": 1}}}', "[" * 100_000])
def test_a_damaged_measurement_is_refused_by_name(tmp_path, text):
    runs = [make_run(tmp_path / name, 0, [0.1, 0.2]) for name in "ab"]
    (tmp_path / "b" / compare.FILE).write_text(text)
    with pytest.raises(ConfigError, match=r"b/measurements.json cannot be read"):
        compare.show_comparison(runs)
