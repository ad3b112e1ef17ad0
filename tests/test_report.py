"""A sweep's report: what it gathers and computes, what it prints and exports, what it refuses, and what hostile texts cannot do to it."""

import csv
import importlib.util
import io
import itertools
import json
import os
import sqlite3
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from command_line_problems import problems_of, said
from experiment_runner import World, cpu_of_children, python_path
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sweep_folders import finished, log, searched, swept

from lexalign.artifacts.files import LEDGER
from lexalign.config.compose import compose
from lexalign.errors import ConfigError
from lexalign.evaluation.intervals import student_interval, student_quantile
from lexalign.sweeps import report
from lexalign.sweeps.ledger import Job, Ledger
from lexalign.sweeps.report import csv_export, curves, gather, importance, page, points, table, wording

HOSTILE = [
    "</script><script>document.title='owned'</script>", "<img src=x onerror=alert(1)>", '"><b onmouseover=alert(1)>', "<!--<script>",
    "&lt;b&gt;", "<b>bold</b><br><a href='javascript:alert(1)'>x</a>", "%{y} ${x} $x^2$ {{x}}", "[red]x[/red] [link=http://evil]",
    "\x1b[2J\x1b]0;owned\x07", "a\u2028b\u2029c", "\udcff lone", "__proto__", "'; rm -rf ~ #", "=cmd|' /C calc'!A0", "  ",
    "line\r\nline", "hf_abcdefghijklmnopqrstuvwx",
]  # fmt: skip


def job(at: int, **more) -> Job:
    return Job(**{**vars(finished(at, 0.1, seed=at)), **more})


def test_jobs_are_ranked_by_their_score_best_first(tmp_path):
    lower = swept(tmp_path / "lower", [finished(n, score, seed=n) for n, score in enumerate((0.3, 0.1, 0.2))])
    assert [row.name for row in gather.gather_report([lower]).ranked] == ["1", "2", "0"]
    higher = swept(tmp_path / "higher", [finished(n, n, name="reward", direction="maximize", seed=n) for n in range(3)])
    assert [row.name for row in gather.gather_report([higher]).ranked] == ["2", "1", "0"]


@pytest.mark.parametrize("command", ["python run.py -m seed=0,1 'a=[b]'", ["-m", "seed=0,1", "a=[b]"]])
def test_the_sweeps_own_command_is_shown_as_typed(tmp_path, command):
    assert gather.gather_report([swept(tmp_path, [job(0)], command=command)]).command == "python run.py -m seed=0,1 'a=[b]'"


def test_equals_of_the_best_are_counted(tmp_path):
    folder = swept(tmp_path, [finished(n, score, seed=n) for n, score in enumerate((0.1, 0.1, 0.2, 0.1))])
    assert "job 0; 2 more score the same" in report.write_report(folder).read_text()


def test_only_what_finished_is_ranked(tmp_path):
    jobs = [job(0), job(1, state="pruned", score=0.0), job(2, score=float("inf")), job(3, score=None, metrics={}), job(4, state="failed")]
    found = gather.gather_report([swept(tmp_path, jobs)])
    assert [row.name for row in found.ranked] == ["0"]
    assert [row.name for row in found.rows] == ["0", "2", "3", "1", "4"]
    assert any("not ranked: 2 scored by belief_jsd" in note for note in found.notes)


def test_different_scores_are_not_mixed(tmp_path):
    """dpo's score is another than gdpo's: jobs are ranked by what most have, and that is said."""
    mixed = [finished(0, 0.9, name="reward_accuracy", direction="maximize"), finished(1, 0.2), finished(2, 0.1)]
    found = gather.gather_report([swept(tmp_path / "a", mixed)])
    assert [row.name for row in found.ranked] == ["2", "1"] and "1 scored by reward_accuracy" in found.notes[0]
    mixed[0].metrics["belief_jsd"] = 0.05
    found = gather.gather_report([swept(tmp_path / "b", mixed)])
    assert [row.name for row in found.ranked] == ["0", "2", "1"] and "all are ranked by belief_jsd" in found.notes[0]


def test_points_equal_but_for_the_seed_are_one(tmp_path):
    scores = {("1e-3", 0): 0.1, ("1e-3", 1): 0.2, ("1e-3", 2): 0.3, ("1e-4", 0): 0.4}
    jobs = [finished(n, score, train__learning_rate=rate, seed=seed) for n, ((rate, seed), score) in enumerate(scores.items())]
    first, second = points.pool_seeds(gather.gather_report([swept(tmp_path, jobs)]))
    assert (first.n, first.settings, first.mean) == (3, {"train.learning_rate": "1e-3"}, pytest.approx(0.2))
    half = 4.302653 * 0.1 / 3**0.5
    assert (first.low, first.high) == (pytest.approx(0.2 - half), pytest.approx(0.2 + half))
    assert (second.n, second.low, second.high) == (1, None, None), "one seed tells nothing of the spread"


@pytest.mark.parametrize(
    ("freedom", "t"), [(1, 12.7062), (2, 4.30265), (3, 3.18245), (4, 2.77645), (9, 2.26216), (30, 2.04227), (200, 1.97190)]
)
def test_student_is_as_in_the_tables(freedom, t):
    assert student_quantile(freedom) == pytest.approx(t, abs=1e-5)
    assert student_interval([1.0, 1.0]) == (1.0, 1.0)


def test_the_pareto_front_is_what_nothing_beats(tmp_path):
    values = [(0.1, 0.5), (0.2, 0.9), (0.3, 0.8), (0.1, 0.5), (0.05, 0.1), (0.05, 0.05)]
    jobs = [Job(**{**vars(finished(n, a, seed=n)), "metrics": {"belief_jsd": a, "reward": b}}) for n, (a, b) in enumerate(values)]
    found = gather.gather_report([swept(tmp_path, jobs, objectives=["belief_jsd", "reward"])])
    assert [score.lower_is_better for score in found.objectives] == [True, False]
    pairs = [[row.job.metrics["belief_jsd"], row.job.metrics["reward"]] for row in found.ranked]
    names = {row.name for row in points.find_pareto_front(found.ranked, pairs, found.objectives)}
    beaten = {
        str(n) for n, (a, b) in enumerate(values) if any(c <= a and d >= b and (c, d) != (a, b) for c, d in values)
    }  # fmt: skip
    assert names == {str(n) for n in range(len(values))} - beaten == {"0", "1", "3", "4"}


def test_what_decides_is_found_and_what_does_not_is_not(tmp_path):
    found = gather.gather_report([searched(tmp_path, 120, seeds=2, logged=0)])
    shares = importance.measure_importance(found, points.pool_seeds(found)).shares
    assert next(iter(shares)) == "train.learning_rate" and shares["train.learning_rate"] > 0.5
    assert shares["adapter.rank"] < 0.15 and shares["train.scheduler"] < 0.15 and sum(shares.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("jobs", "words"),
    [
        ([finished(n, n, lr=n) for n in range(19)], "Too few finished points to tell: 19"),
        ([finished(n, n, lr=n // 30, seed=n % 30) for n in range(60)], "Too few finished points to tell: 2"),
        ([finished(n, 0.5, lr=n) for n in range(40)], "All points have the same score"),
        ([job(0, state="failed", score=None)], "No finished point has a score yet"),
    ],
)
def test_it_says_when_it_cannot_tell(tmp_path, jobs, words):
    found = gather.gather_report([swept(tmp_path, jobs)])
    told_of = importance.measure_importance(found, points.pool_seeds(found))
    assert told_of.shares == {} and words in told_of.said


def test_a_setting_that_some_points_lack_counts_where_it_is(tmp_path):
    jobs = [finished(n, n % 7 / 7, lr=n, method="dpo" if n % 2 else "sft", **({"beta": n % 7} if n % 2 else {})) for n in range(60)]
    found = gather.gather_report([swept(tmp_path, jobs)])
    assert set(importance.measure_importance(found, points.pool_seeds(found)).shares) == {"lr", "method", "beta"}


def test_curves_are_the_best_fifty_thinned_and_whole(tmp_path):
    folder = searched(tmp_path, 80, logged=80)
    with (folder / "0" / "metrics.jsonl").open("w") as file:
        for step in range(1, 1001):
            file.write(json.dumps({"step": step, "loss": 1 / step, "epoch": 0.1, "not_finite": ["x"], "bad": float("nan")}) + "\n")
        file.write('{"step": 1001, "train_runtime": 3, "train_loss": 9}\n{"step": 10')
    report_of = gather.gather_report([folder])
    report_of.rows.sort(key=lambda row: row.name != "0")
    found = curves.gather_curves(report_of)
    assert len(found.rows) == curves.MOST_JOBS and found.left_out == 30 and found.measures == ["eval_loss", "loss"]
    steps, values = found.lines[0]["loss"]
    assert set(found.lines[0]) == {"loss"} and len(steps) == 200 and steps[-1] == 1000 and values[-1] == 0.001


def test_jobs_that_never_logged_are_not_left_out_curves(tmp_path):
    folder = searched(tmp_path, 10, logged=4)
    found = curves.gather_curves(gather.gather_report([folder]))
    assert len(found.rows) == 4 and found.left_out == 0


def test_failures_are_told_by_reason_with_their_last_lines(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "very-secret-value")
    jobs = [job(n, state="failed", reason="killed by signal 11" if n < 3 else None) for n in range(4)]
    log(tmp_path / "0", 0.1)
    (tmp_path / "0" / "run.log").write_text("\n".join(f"line {n}" for n in range(5000)) + "\nkey very-secret-value\n")
    found, left_out = wording.group_failures(gather.gather_report([swept(tmp_path, jobs)]))
    assert [(len(failure.rows), failure.reason) for failure in found] == [(3, "killed by signal 11"), (1, "failed; no reason is recorded")]
    assert found[0].lines["job.out"] == "Training\nstep 2\nRuntimeError: boom" and found[1].lines == {} and left_out == 0
    assert found[0].lines["run.log"].splitlines() == [*(f"line {n}" for n in range(4986, 5000)), "key [secret]"]


def test_cost_counts_parents_and_what_was_lost(tmp_path):
    jobs = [job(0, seconds=60), job(1, state="failed", seconds=20), job(2, state="pruned", seconds=10), job(3, state="waiting", seconds=0)]
    found = wording.sum_cost(gather.gather_report([swept(tmp_path, [*jobs, job(4, number=None, key="p", seconds=10)])]))
    assert found.seconds == {"finished": 60, "failed": 20, "pruned": 10, "parents": 10} and found.jobs == 4
    assert found.total == 100 and found.lost == pytest.approx(0.3)
    assert [wording.format_duration(seconds) for seconds in (3.25, 250, 7500)] == ["3.2 s", "4 min 10 s", "2 h 05 min"]


@pytest.mark.parametrize(
    "name", ["plain", "with space", "quo'te", 'dou"ble', "back\\", "equals=here", "com,ma", "$dollar", "ünï", "end\\\\"]
)
def test_the_best_runs_command_comes_back_from_shell_and_hydra(tmp_path, name):
    folder = swept(tmp_path / name, [job(0, overrides=["stage=align", "data.system='it is, so: {x}'", "method.beta=0.1"], folder="0")])
    found = gather.gather_report([folder])
    words = wording.format_job_command(found, found.ranked[0])
    script = f"printf '%s\\0' {words.removeprefix('python run.py ')}"
    typed = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True).stdout.split("\0")[:-1]
    composed = compose(typed).experiment
    assert composed.output_dir == str(folder / "0") and composed.data.system == "it is, so: {x}" and composed.method.beta == 0.1


def test_a_moved_sweep_still_finds_its_runs(tmp_path):
    (folder := swept(tmp_path / "here", [job(0, folder="/gone/0"), job(1, folder=str(tmp_path / "else"))])).joinpath("0").mkdir()
    (tmp_path / "else").mkdir()
    assert [row.folder for row in gather.gather_report([folder]).rows] == [folder / "0", tmp_path / "else"]


@pytest.fixture
def run(tmp_path):
    """Makes the folder of a single run."""

    def make(name: str, *overrides: str, score: float | None = 0.2) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.yaml").write_text(yaml.safe_dump(compose([f"output_dir={folder}", *overrides]).tree))
        if score is not None:
            found = {"status": "finished", "stage": "align", "method": "gdpo", "score": score, "score_name": "belief_jsd", "seconds": 5.0}
            (folder / "result.json").write_text(json.dumps({**found, "metrics": {"before": {}, "after": {"belief_jsd": score}}}))
        return folder

    return make


def test_single_runs_are_told_apart_by_what_differs(run):
    a = run("a", "stage=align", "method=gdpo", "method.beta=0.1")
    b = run("b", "stage=align", "method=gdpo", "method.beta=0.3", "train.epochs=2", score=0.1)
    c = run("c", "stage=align", "method=gdpo", "method.beta=0.1", score=None)
    found = gather.gather_report([a, b, c])
    assert [(row.name, row.job.state) for row in found.rows] == [("b", "finished"), ("a", "finished"), ("c", "interrupted")]
    assert set(found.swept) == {"method.beta", "train.epochs"} and found.rows[0].settings["method.beta"] == "0.3"
    assert wording.format_job_command(found, found.ranked[0]) == f"python run.py reproduce={b}"
    assert points.pool_seeds(found)[0].n == 1


def test_across_sweeps_settings_are_filled_in(tmp_path, run):
    first = swept(tmp_path / "first", [finished(n, n, method__beta=beta) for n, beta in enumerate((0.1, 0.2))])
    with_typed = finished(0, 0.5, train__learning_rate="1e-3")
    with_typed.overrides.append("method.beta=0.7")
    second = swept(tmp_path / "second", [with_typed])
    alone = run("alone", "stage=align", "method=gdpo", "method.beta=0.9", score=0.4)
    found = gather.gather_report([first, second, alone])
    assert {(row.sweep, row.name): row.settings.get("method.beta") for row in found.rows} == {
        ("first", "0"): "0.1", ("first", "1"): "0.2", ("second", "0"): "0.7", ("", "alone"): "0.9",
    }  # fmt: skip
    assert found.several and found.folder is None and table.list_columns(found, found.rows)[1].name == "sweep"


def test_csv_has_all_jobs_and_all_columns(tmp_path):
    folder = searched(tmp_path, 60, logged=0)
    rows = list(csv.DictReader(io.StringIO(csv_export.make_csv(gather.gather_report([folder])))))
    assert len(rows) == 61
    (row,) = [row for row in rows if row["job"] == "0"]
    assert {"train.learning_rate", "method.beta", "seed", "after/belief_jsd", "after/kl", "score", "state", "seconds", "reason"} <= set(row)
    with Ledger(folder) as ledger:
        first = ledger.read_jobs()[0]
    assert float(row["after/kl"]) == first.metrics["kl"] and float(row["score"]) == first.score and row["folder"] == str(folder / "0")


@pytest.mark.parametrize(
    ("cell", "safe"), [("=1+1", "'=1+1"), ("-1e-3", "-1e-3"), ("-x", "'-x"), ("@a", "'@a"), ("+5", "+5"), (-3, -3), ("", "")]
)
def test_a_spreadsheet_runs_nothing(cell, safe):
    assert csv_export.escape_cell(cell) == safe


def held(text: str) -> str:
    """A text as a database can hold it; only the columns that are JSON can hold half a character."""
    return text.encode("utf-8", "replace").decode()


def hostile_sweep(folder: Path) -> Path:
    jobs = [
        Job(**{**vars(finished(n, n / 10, seed=n % 2, **{"data.system": text})), "reason": held(text), "host": held(text)})
        for n, text in enumerate(HOSTILE)
    ]  # fmt: skip
    jobs += [job(100 + n, key=f"f{n}", state="failed", reason=held(text), values={text: "1"}) for n, text in enumerate(HOSTILE)]
    jobs[0].metrics |= dict.fromkeys(HOSTILE, 1.0)
    for n, text in enumerate(HOSTILE):
        (folder / str(100 + n)).mkdir(parents=True)
        (folder / str(100 + n) / "job.out").write_bytes(text.encode("utf-8", "surrogateescape") + b"\xff\n")
        line = {"step": 1, text: 1.0}
        (folder / str(100 + n) / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    return swept(folder, jobs, command=["-m", *HOSTILE])


class Elements(HTMLParser):
    """The elements of a page, and their attributes."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_hostile_texts_stay_texts(tmp_path, capsys):
    folder = hostile_sweep(tmp_path / "sweep")
    written = report.write_report(folder).read_text(encoding="utf-8")
    elements = Elements(written).found
    assert [tag for tag, _ in elements].count("script") == 4, "the data, the table, plotly and the figures"
    assert not {"img", "br", "svg", "iframe"} & {tag for tag, _ in elements}
    assert not [name for _, attributes in elements for name in attributes if name.startswith("on")]
    assert {attributes["href"][0] for _, attributes in elements if "href" in attributes} == {"#"}
    assert "hf_abcdefgh" not in written
    table.show_table(gather.gather_report([folder]))
    printed = capsys.readouterr().out
    assert "\x1b" not in printed and "\x07" not in printed and "[red]x[/red]" in printed
    rows = list(csv.reader(io.StringIO(csv_export.make_csv(gather.gather_report([folder])))))
    assert len({len(row) for row in rows}) == 1 and not any(cell.startswith(("=", "@")) for row in rows for cell in row)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.recursive(st.text() | st.none() | st.floats(allow_nan=False, allow_infinity=False), lambda inner: st.lists(inner, max_size=4)))
def test_embedded_data_come_back_and_cannot_end_their_place(value):
    text = page.embed_json(value)
    assert not set("<>&") & set(text) and text.isascii() and json.loads(text) == value


def test_a_sweep_that_has_not_begun_or_has_no_score(tmp_path):
    for jobs in ([], [job(0, state="waiting", score=None, seconds=0, metrics={})], [job(0, score=None, score_name=None, metrics={})]):
        folder = swept(tmp_path / str(len(list(tmp_path.iterdir()))), jobs)
        text = report.write_report(folder, live=True).read_text(encoding="utf-8")
        assert "Nothing has finished with a score yet" in text and 'http-equiv="refresh"' in text and "Still running" in text
    assert 'http-equiv="refresh"' not in report.write_report(folder).read_text(encoding="utf-8")


def test_it_is_written_whole_while_the_ledger_is_written(tmp_path):
    folder = searched(tmp_path, 20, logged=0)
    with Ledger(folder, write=True) as ledger:
        ledger.connection.execute("BEGIN IMMEDIATE")
        assert report.write_report(folder, live=True).is_file()
    assert {path.name for path in folder.iterdir()} <= {LEDGER, f"{LEDGER}-wal", f"{LEDGER}-shm", report.FILE}


def test_what_cannot_be_reported_is_refused_by_name(tmp_path):
    empty, other, damaged = tmp_path / "empty", swept(tmp_path / "other", []), tmp_path / "damaged"
    empty.mkdir()
    with sqlite3.connect(other / LEDGER) as connection:
        connection.execute("PRAGMA user_version=7")
    damaged.mkdir()
    (damaged / LEDGER).write_text("no database at all, but long enough to be read as one" * 50)
    refused = problems_of([f"report=[{empty},{other},{damaged},{tmp_path / 'gone'}]"])
    assert said(refused, f"report: {empty} is neither a sweep (ledger.sqlite) nor a run (config.yaml)")
    assert said(refused, f"{other / LEDGER}: is a ledger of version 7, this lexalign writes version 1")
    assert (
        said(refused, str(damaged), "cannot be read as a ledger")
        and said(refused, str(tmp_path / "gone"), "is neither")
        and len(refused) == 4
    )


def test_states_that_nobody_writes_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="jobs in the state <b>"):
        gather.gather_report([swept(tmp_path, [job(0, state="<b>")])])


@pytest.mark.parametrize(
    ("words", "fragments"),
    [
        ("report_csv=x.csv", ("report_csv=x.csv: there is no report to take it from", "report=<folder of a sweep>")),
        ("report=[]", ("report: names no folder",)),
        ("report=[a,a]", ("report: a stands there twice",)),
        ("report=5", ("report=5: expected text", "quote it")),
        ("report=a report_csv=x.txt", ("report_csv=x.txt: is written as CSV; name a file that ends in .csv",)),
        ("report=a report_csv=gone/x.csv", ("report_csv=gone/x.csv: there is no folder gone",)),
        ("report=a train.epochs=2", ("train.epochs: is not read with report=…",)),
        ("report=sweep output_dir=x", ("output_dir=x: the report of one sweep is written into its folder, sweep",)),
    ],
)
def test_refused_with_what_to_type(tmp_path, monkeypatch, words, fragments):
    monkeypatch.chdir(tmp_path)
    swept(tmp_path / "sweep", [job(0)])
    assert said(problems_of(words), *fragments), problems_of(words)


def test_on_the_command_line(tmp_path):
    world = World(tmp_path)
    folder = searched(tmp_path / "sweep", 40)
    done = world.type("report=sweep", "report_csv=all.csv", env={"COLUMNS": "150"})
    assert done.returncode == 0, done.stderr
    best = gather.gather_report([folder]).ranked[0]
    lines = [line for line in done.stdout.splitlines() if line.startswith("│")]
    assert lines[0].split("│")[1].strip() == best.name and wording.format_number(best.score) in lines[0] and len(lines) == 41
    assert all(len(line) <= 150 for line in done.stdout.splitlines()) and f"written: {folder / report.FILE}" in done.stdout
    assert best.name in (folder / report.FILE).read_text() and len((tmp_path / "all.csv").read_text().splitlines()) == 42
    assert not (tmp_path / "multirun").exists(), "nothing was run"
    narrow = world.type("report=sweep", env={"COLUMNS": "60"}).stdout
    assert "no room here for" in narrow and all(len(line) <= 60 for line in narrow.splitlines() if line[0] in "│┃┏┡└")
    searched(tmp_path / "second", 20)
    done = world.type("report=[sweep,second]", "output_dir=both")
    assert done.returncode == 0 and (tmp_path / "both" / report.FILE).is_file() and "2 sweeps and runs" in done.stdout


def test_ten_thousand_jobs_in_five_seconds_without_torch(tmp_path):
    folder = searched(tmp_path / "sweep", 10_000, logged=0)
    # Optuna's importances import scikit-learn where it is installed (lm-eval brings it), and that imports pandas.
    heavy = {"torch", "plotly", "transformers", "wandb", *(() if importlib.util.find_spec("sklearn") else ("pandas",))}
    script = (
        "import sys; from lexalign.cli import check_command_line\n"
        "try: check_command_line(sys.argv[1:])\n"
        f"finally: print('heavy:', sorted({heavy} & set(sys.modules)))"
    )
    words = [sys.executable, "-c", script, f"report={folder}", f"report_csv={tmp_path / 'x.csv'}"]
    before = cpu_of_children()
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": python_path()})
    took = cpu_of_children() - before
    assert done.returncode == 0 and "heavy: []" in done.stdout, done.stderr
    assert len((tmp_path / "x.csv").read_text().splitlines()) == 10_002 and "… and 9,901 more" in done.stdout
    assert took < 5


def test_names_of_folders_tell_sweeps_apart(tmp_path):
    folders = [tmp_path / name for name in ("a/sweep", "b/sweep", "c")]
    labels = gather.label_folders(folders)
    assert labels[folders[2]] == "c" and len(set(labels.values())) == 3
    assert all(a == b or labels[a] != labels[b] for a, b in itertools.product(folders, folders))
