"""The report's best point against those next to it: what cannot be told from it is said."""

import json
import random
from pathlib import Path

from sweep_folders import finished, swept

from lexalign.artifacts.result import Result, write_result
from lexalign.evaluation import compare
from lexalign.sweeps import report
from lexalign.sweeps.report import gather, points, table
from lexalign.sweeps.report.ties import Ties, find_ties

ROWS = 60


def make_sweep(folder: Path, gaps: dict[str, float], seeds: int, *, rows: bool = True, spread: float = 0.01) -> Path:
    """A sweep over betas whose scores lie so far apart, measured on the same rows with each seed."""
    chance = random.Random(0)
    difficulty = [chance.uniform(0.1, 0.9) for _ in range(ROWS)]
    jobs = []
    for beta, gap in gaps.items():
        for seed in range(seeds):
            shift = gap + chance.gauss(0, spread)
            values = [x + shift + chance.gauss(0, 0.02) for x in difficulty]
            job = finished(len(jobs), sum(values) / ROWS, method__beta=beta, seed=seed)
            if rows:
                place = folder / str(job.number)
                place.mkdir(parents=True)
                (place / compare.FILE).write_text(json.dumps({"rows": "ab", "after": {"belief_jsd": {"values": values}}}))
            jobs.append(job)
    return swept(folder, jobs)


def ties_of(folder: Path) -> Ties:
    """What the report says of a sweep's best point."""
    gathered = gather.gather_report([folder])
    ties = find_ties(gathered, points.pool_seeds(gathered))
    assert ties is not None
    return ties


def test_points_that_are_close_are_named_and_far_ones_are_not(tmp_path):
    ties = ties_of(make_sweep(tmp_path, {"0.1": 0.0, "0.2": 0.002, "0.5": 0.3}, seeds=4))
    assert ties.covers_seeds and ties.compared == 2 and len(ties.equal) == 1
    assert {ties.best.settings["method.beta"], ties.equal[0].settings["method.beta"]} == {"0.1", "0.2"}
    assert "Not distinguishable from 1 of 2 other points (95 % together, over seeds and rows): method.beta=" in ties.describe()


def test_a_best_point_that_stands_out_is_said_to(tmp_path):
    assert (
        "Distinguishable from each of 2 other points" in ties_of(make_sweep(tmp_path, {"1": 0.0, "2": 0.5, "3": 0.9}, seeds=3)).describe()
    )


def test_one_seed_each_says_nothing_about_the_method(tmp_path, capsys):
    folder = make_sweep(tmp_path, {"0.1": 0.0, "0.2": 0.3}, seeds=1)
    ties = ties_of(folder)
    assert not ties.covers_seeds and ties.compared == 1 and not ties.equal
    assert "over the held-out rows only" in ties.describe() and "One seed each" in ties.describe()
    table.show_table(gather.gather_report([folder]))
    assert "Best point: method.beta=0.1" in " ".join(capsys.readouterr().out.split())
    assert "One seed each" in report.write_report(folder).read_text()


def test_the_best_run_is_shown_beside_what_takes_no_model(tmp_path, capsys):
    folder = make_sweep(tmp_path, {"0.1": 0.0, "0.2": 0.3}, seeds=1)
    trivial, warnings = {"belief_jsd": {"overall shares": 0.3425}}, ["perplexity rose from 3 to 9: text is lost"]
    write_result(folder / "0", Result(status="finished", stage="align", baselines=trivial, warnings=warnings))
    write_result(folder / "1", Result(status="finished", stage="align", warnings=["text"]))
    table.show_table(gather.gather_report([folder]))
    for text in (" ".join(capsys.readouterr().out.split()), report.write_report(folder).read_text()):
        assert "Without a model: overall shares 0.3425." in text and "perplexity rose from 3 to 9" in text
        assert "1 of the 1 next jobs have warnings too, which stand in their result.json: 1." in text
    (folder / "0" / "result.json").write_text("{")
    report.write_report(folder)


def test_without_rows_the_seeds_alone_decide(tmp_path):
    ties = ties_of(make_sweep(tmp_path / "seeds", {"0.1": 0.0, "0.2": 0.4}, seeds=4, rows=False))
    assert ties.covers_seeds and not ties.equal
    gathered = gather.gather_report([make_sweep(tmp_path / "single", {"0.1": 0.0, "0.2": 0.4}, seeds=1, rows=False)])
    assert find_ties(gathered, points.pool_seeds(gathered)) is None, "two numbers tell nothing"


def test_rows_that_are_not_the_same_are_not_paired(tmp_path):
    folder = make_sweep(tmp_path, {"0.1": 0.0, "0.2": 0.4}, seeds=1)
    file = folder / "1" / compare.FILE
    file.write_text(file.read_text().replace('"ab"', '"cd"'))
    gathered = gather.gather_report([folder])
    assert find_ties(gathered, points.pool_seeds(gathered)) is None


def test_equal_points_are_seldom_told_apart(tmp_path):
    """Eleven points that are the same: the best of them is told from some other in about one sweep of twenty, not in every second."""
    told_apart = 0
    for number in range(20):
        chance = random.Random(number)
        jobs = [finished(at, chance.gauss(0.5, 0.1), method__beta=at // 4, seed=at % 4) for at in range(44)]
        ties = ties_of(swept(tmp_path / str(number), jobs))
        told_apart += len(ties.equal) < ties.compared
    assert told_apart <= 4
