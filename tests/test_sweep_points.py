"""Which points a command line of `-m` asks for: axes that go together, points from a file, settings that not every point reads."""

import json
from pathlib import Path

import pytest
from experiment_runner import World
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from lexalign.config.loading import CONF_ONLY
from lexalign.errors import ConfigError
from lexalign.sweeps import conditions, fingerprint, run
from lexalign.sweeps.check import refuse_wrong
from lexalign.sweeps.ledger import Job
from lexalign.sweeps.plan import Plan
from lexalign.sweeps.points import parse_request
from lexalign.sweeps.points_file import format_override, read_points

ALIGN = ("stage=align", "tracking=none")


def points_of(*words: str) -> list[dict[str, str]]:
    """What each point of a grid has of what varies."""
    request = parse_request(list(words))
    return [dict(o.split("=", 1) for o in point if o not in request.fixed_overrides) for point in request.list_grid()]


def planned(folder: Path, *words: str) -> tuple[Plan, list[Job]]:
    """The plan of a sweep in this process, and its points, as after the check of the command line."""
    typed = [*ALIGN, f"store={folder}/store", *words]
    refuse_wrong(typed, CONF_ONLY)
    request = parse_request(typed)
    settings, _ = fingerprint.read_sweep_settings(request)
    with run.open_plan(request, settings, folder / "sweep", command=typed) as plan:
        return plan, plan.add(request.list_grid())


def refusal(*words: str) -> str:
    """Why a command line is refused."""
    with pytest.raises(ConfigError) as error:
        refuse_wrong([*ALIGN, *words], CONF_ONLY)
    return "\n".join(error.value.problems)


def test_axes_that_go_together():
    assert points_of("a=1,2", "b=x,y", "seed=0,1", "sweep.zip=[[a,b]]") == [
        {"a": a, "b": b, "seed": seed} for a, b in (("1", "x"), ("2", "y")) for seed in ("0", "1")
    ]
    assert points_of("a=1,2", "b=x,y", "sweep.zip=[a,b]") == [{"a": "1", "b": "x"}, {"a": "2", "b": "y"}], "one list is one group"
    assert len(points_of("a=1,2", "b=x,y", "c=1,2,3", "d=4,5,6", "sweep.zip=[[a,b],[d,c]]", "sweep.seeds=2")) == 2 * 3 * 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["seed=1,2", "train.epochs=1,2,3", "sweep.zip=[[seed,train.epochs]]"], "seed has 2, train.epochs has 3"),
        (["seed=1,2", "sweep.zip=[[seed,train.epochs]]"], "train.epochs has no list of values; type one, as in train.epochs=a,b"),
        (["seed=1,2", "train.epochs=1,2", "sweep.zip=[[seed,train.epochs],[seed]]"], "seed stands in it 2 times"),
        (["sweep=optuna", "method.beta=interval(0.1,1)", "seed=1,2", "sweep.zip=[[seed,method.beta]]"], "is an interval"),
        (["sweep=optuna", "seed=1,2", "train.epochs=1,2", "sweep.zip=[[seed,train.epochs]]"], "a search takes each axis for itself"),
        (["seed=1,2", "train.epochs=1,2", "sweep.zip=3"], "sweep.zip=3: expected a list"),
        (["sweep=optuna", "method.beta=interval(1,0.1)"], "begins at 1.0 and ends at 0.1; the first must be the smaller"),
        (["sweep=optuna", "method.beta=interval(1,1)"], "the first must be the smaller"),
        (["sweep=optuna", "method.beta=tag(log,interval(0,1))"], "goes by the logarithm, and begins at 0"),
        (["sweep=optuna", "method.beta=interval(0.1,inf)"], "has two ends that are numbers"),
        (["sweep=optuna", "method.beta=tag(lin,interval(0.1,1))"], "tag lin is read by nothing"),
        (["seed=tag(log,choice(1,2))"], "tag log is read by nothing"),
        (["sweep=optuna", "adapter.rank=interval(1,8)"], "type an interval of whole numbers as 'adapter.rank=int(interval(1,8))'"),
        (["sweep=optuna", "method.beta=interval(-1,1)"], "method.beta=-1.0: must be above 0"),
        (["seed=1,2", "hydra/launcher=basic", "sweep.fail_fast=true"], "runs all its jobs at once"),
    ],
)
def test_what_cannot_be_drawn_is_refused(words, said):
    assert said in refusal(*words)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


CSV = "method,method.beta,train.learning_rate\ndpo,0.1,1e-4\nsimpo,2,\n\ndpo, 0.5 ,1e-5\n"


def test_points_of_a_file_are_crossed_with_what_is_typed(tmp_path):
    file = write(tmp_path / "points.csv", CSV)
    rows = [
        {"method": "dpo", "method.beta": "0.1", "train.learning_rate": "1e-4"},
        {"method": "simpo", "method.beta": "2"},
        {"method": "dpo", "method.beta": "0.5", "train.learning_rate": "1e-5"},
    ]
    assert points_of(f"sweep.points={file}", "seed=0,1") == [{**row, "seed": seed} for row in rows for seed in ("0", "1")]
    plan, jobs = planned(tmp_path, f"sweep.points={file}")
    assert [job.values for job in jobs] == rows and [job.method for job in jobs] == ["dpo", "simpo", "dpo"]
    assert plan.ledger.folder.name == "sweep"


def test_json_lines(tmp_path):
    points = [{"method": "dpo", "train": {"learning_rate": 1e-4, "packing": False}}, {"data.system": 'it\'s "so"', "seed": 3}]
    file = write(tmp_path / "points.jsonl", "\n".join(map(json.dumps, points)))
    first, second = read_points(file)
    assert first == ("method=dpo", "train.learning_rate=0.0001", "train.packing=false")
    parsed = OverridesParser.create().parse_overrides(list(second))
    assert [override.value() for override in parsed] == ['it\'s "so"', 3]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=12),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@given(VALUES)
def test_a_value_is_read_back_as_it_is(value):
    (override,) = OverridesParser.create().parse_overrides([format_override("a.b", value)])
    read = override.value()
    assert (list(read) if isinstance(value, list) else read) == value or str(read) == str(value)
    assert not override.is_sweep_override()


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("p.csv", "", "1: the first line names a setting for each column"),
        ("p.csv", "seed,seed\n1,2\n", "each once; ['seed']"),
        ("p.csv", "seed\n1,2\n", "2: has 2 cells, and the first line names 1 settings"),
        ("p.csv", "seed\n", "holds no points"),
        ("p.csv", 'seed\n"1,2"\n', "2: seed=1,2: holds several values; write each on a line of its own"),
        ("p.csv", 'seed\n1\n"a b: c ["\n', "3: seed=a b: c [: cannot be read as key=value"),
        ("p.csv", "seed\n${oc.env:HOME}\n", "2: seed: may not look up other values"),
        ("p.csv", "extensions\n[mylab]\n", "2: extensions: may not stand in a file, because"),
        ("p.csv", "method._target_\nos.system\n", "method._target_: names code, which may not stand in a file"),
        ("p.csv", "hydra.run.dir\nx\n", "hydra.run.dir: belongs to the sweep"),
        ("p.csv", "model.trust_remote_code\ntrue\n", "model.trust_remote_code: may not stand in a file"),
        ("p.csv", "cache\nclear\n", "cache=clear: may not stand in a file"),
        ("p.csv", "store\n/tmp/x\n", "store: may not stand in a file"),
        ("p.jsonl", '{"evaluate": {"judge": {"url": "http://x"}}}\n', "evaluate.judge.url: may not stand in a file"),
        ("p.csv", "+new\n1\n", "+new: is not the name of a setting"),
        ("p.jsonl", "{\n", "1: is no JSON"),
        ("p.jsonl", "[1]\n", "1: is no object"),
        ("p.jsonl", "[" * 100_000, "1: is no JSON (RecursionError)"),
        ("p.txt", "seed\n1\n", "name a file that ends in .csv or .jsonl"),
        ("p.csv", "seed\nx\n", "seed=x: expected a whole number"),
        ("p.csv", "train.epoch\n1\n", "did you mean train.epochs?"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line(tmp_path, name, text, said):
    assert said in refusal(f"sweep.points={write(tmp_path / name, text)}")


def test_a_file_that_is_not_there_or_no_text_and_a_setting_given_twice(tmp_path):
    assert "cannot be read" in refusal(f"sweep.points={tmp_path}/gone.csv")
    (tmp_path / "binary.csv").write_bytes(bytes(range(256)))
    assert "cannot be read" in refusal(f"sweep.points={tmp_path}/binary.csv")
    file = write(tmp_path / "p.csv", "seed\n1\n")
    assert "seed: stands in sweep.points=" in refusal(f"sweep.points={file}", "seed=1,2")


def test_a_setting_of_some_methods_is_given_to_these(tmp_path):
    plan, jobs = planned(tmp_path, "method=dpo,gdpo", "method.preference_weight=0.5,1")
    assert [job.values for job in jobs] == [
        {"method": "dpo"}, {"method": "dpo"}, {"method": "gdpo", "method.preference_weight": "0.5"},
        {"method": "gdpo", "method.preference_weight": "1"},
    ]  # fmt: skip
    assert len({job.key for job in jobs}) == 3 and plan.repeat_count == 1
    assert plan.drops.describe() == ["method.preference_weight: left out of 2 points, which do not read it (not a setting of method=dpo)"]


def test_a_setting_that_is_not_swept_too(tmp_path):
    _, jobs = planned(tmp_path, "method=dpo,simpo", "method.gamma=0.7")
    assert [any("gamma" in word for word in job.overrides) for job in jobs] == [False, True]


def test_a_setting_that_a_point_has_and_does_not_read(tmp_path):
    """gdpo's beta belongs to the preference term, which a weight of 0 leaves out."""
    plan, jobs = planned(tmp_path, "method=gdpo", "method.preference_weight=0,1", "method.beta=0.1,0.5")
    assert [job.values.get("method.beta") for job in jobs] == [None, None, "0.1", "0.5"] and plan.repeat_count == 1
    (said,) = plan.drops.describe()
    assert said.startswith("method.beta: left out of 2 points") and "belongs to the preference term" in said


def test_the_same_line_again_knows_its_points(tmp_path):
    words = ("method=gdpo", "method.preference_weight=0,1", "method.beta=0.1,0.5")
    first, second = planned(tmp_path, *words)[1], planned(tmp_path, *words)[1]
    assert [(job.number, job.key) for job in first] == [(job.number, job.key) for job in second]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["method=dpo,gdpo", "method.prefrence_weight=0,1"], "method.prefrence_weight: unknown setting"),
        (["method=dpo,ipo", "method.gamma=0.5,1"], "method.gamma: is a setting of"),
        (["method=dpo,simpo", "method.gamma=0.5,high"], "method.gamma=high: expected a number"),
        (["method=gdpo", "method.preference_weight=0", "method.beta=0.1,0.5"], "method.beta: belongs to the preference term"),
        (["method=gdpo", "method.preference_weight=0,1", "method.beta=0.1,-1"], "method.beta=-1: must be above 0"),
        (["train.learning_rate=1e-4,fast"], "train.learning_rate=fast: expected a number"),
    ],
)
def test_what_no_point_reads_and_what_is_wrong_is_refused(words, said):
    assert said in refusal(*words)


def test_a_single_run_refuses_it(tmp_path):
    done = World(tmp_path).type(*ALIGN, "method=dpo", "method.gamma=1")
    assert done.returncode == 2 and "method.gamma: is a setting of" in done.stderr


def test_in_a_search_too():
    request = parse_request([*ALIGN, "sweep=optuna", "method=dpo,simpo", "method.gamma=interval(0.5,1)"])
    refuse_wrong([*ALIGN, "sweep=optuna", "method=dpo,simpo", "method.gamma=interval(0.5,1)"], CONF_ONLY)
    assert conditions.drop_unknown([*ALIGN, "method=dpo", "method.gamma=0.6"], request)[0] == [*ALIGN, "method=dpo"]
    assert conditions.drop_unknown([*ALIGN, "method=simpo", "method.gamma=0.6"], request)[1] == {}


@pytest.mark.slow
def test_fail_fast_stops_the_sweep(tmp_path):
    words = ("-m", "stage=sft", "tracking=none", "train.max_steps=2", "evaluate=false", "preflight=skip", "hardware.threads=1",
             "adapter.target_modules=[nonsense],[q_proj],[v_proj]", "sweep.jobs=1", "output_dir=sweep")  # fmt: skip
    world = World(tmp_path)
    stopped = world.type(*words, "sweep.fail_fast=true")
    assert stopped.returncode == 1 and "1 failed" in stopped.stderr and "sweep.fail_fast: job 0" in stopped.stderr, stopped.stderr[-2000:]
    assert "2 waiting" in stopped.stderr and stopped.stderr.count(" starts") == 1
    on = world.type(*words)
    assert on.returncode == 1 and "2 finished, 1 failed" in on.stderr
