"""The judged win rate, against a judge on the loopback that reads what it is asked."""

import json

import pytest
from experiment_runner import World, result_of
from judge_server import JudgeServer

from lexalign.config.compose import compose
from lexalign.data.rendering import Renderer
from lexalign.evaluation import judge
from lexalign.evaluation.endpoint import Endpoint, EndpointError
from lexalign.evaluation.evaluator import Evaluator, MeasuredReference, Measurement

KEY = "not-a-real-key-7f3a"
OURS, THEIRS = "I would be glad to help you.", "No."


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("judge"))


def asked(server: JudgeServer, *more: str, against: str = "reference", count: int = 6) -> Measurement:
    """The judge's measure alone: answers that are known stand for a model's and its reference's."""
    named = [f"evaluate.judge.url={server.url}", "evaluate.judge.model=judge", f"evaluate.judge.against={against}"]
    experiment = compose(["stage=align", "model=tiny", *named, *more]).experiment
    rows = [{"prompt": f"Question {at}?", "chosen": THEIRS, "rejected": "x"} for at in range(count)]
    stick = Evaluator(encoder=Renderer(Silent(), experiment.data), rows=rows, known=rows, settings=experiment.evaluate, max_length=64)
    found = Measurement(answers={row["prompt"]: OURS for row in rows})
    judge.measure(stick, None, found, MeasuredReference(measured=Measurement(answers={row["prompt"]: THEIRS for row in rows})))  # type: ignore[arg-type]
    return found


class Silent:
    """A tokenizer that nobody asks: every answer is there already."""

    chat_template = None


def kinder(prompt: str, a: str, b: str) -> str:
    """A judge who looks at the answers."""
    return f"One of them helps.\nVerdict: {'tie' if a == b else 'A' if 'glad' in a else 'B'}"


def test_a_judge_who_reads_finds_the_better_answers():
    with JudgeServer(kinder) as server:
        found = asked(server)
    assert found.values["win_rate"] == 1 and found.n["win_rate"] == 6
    assert found.counts == {"judge_win": 6, "judge_loss": 0, "judge_tie": 0, "judge_inconsistent": 0, "judge_unreadable": 0}
    assert len(server.requests) == 12 and {request["temperature"] for request in server.requests} == {0}


@pytest.mark.parametrize(("favoured", "place"), [("A", "first"), ("B", "second")])
def test_a_judge_who_favours_a_place_gives_one_half(favoured, place):
    with JudgeServer(lambda prompt, a, b: f"Verdict: {favoured}") as server:
        found = asked(server)
    assert found.values["win_rate"] == 0.5 and found.counts["judge_inconsistent"] == 6 and found.counts["judge_win"] == 0


def test_losses_ties_and_unreadable_verdicts_are_told_apart():
    def mixed(prompt: str, a: str, b: str) -> str:
        number = int(prompt.split()[1].rstrip("?"))
        return {0: "tie.", 1: "I cannot say.", 2: kinder(prompt, b, a)}.get(number, kinder(prompt, a, b))

    with JudgeServer(mixed) as server:
        found = asked(server)
    assert found.counts == {"judge_win": 3, "judge_loss": 1, "judge_tie": 1, "judge_inconsistent": 0, "judge_unreadable": 1}
    assert found.values["win_rate"] == pytest.approx(3.5 / 5) and found.n["win_rate"] == 5
    assert len(found.rows["win_rate"].values) == 6, "one value a prompt, so that two runs stay paired"


def test_against_the_datas_own_answers():
    with JudgeServer(kinder) as server:
        assert asked(server, against="data").values["win_rate"] == 1
    assert all(THEIRS in request["messages"][1]["content"] for request in server.requests)


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ("Verdict: A", "first"), ("**Verdict:** B", "second"), ("verdict = Tie", "tie"), ("B", "second"), ("A.", "first"), ("", None),
        ("Verdict: A is tempting. But no.\nVerdict: B", "second"), ("Answer A is better", None), ("Verdict: Absolutely", None),
    ],
)  # fmt: skip
def test_what_is_read_of_a_verdict(said, read):
    assert judge.read_verdict(said) == read


def test_a_busy_judge_is_asked_again(monkeypatch):
    monkeypatch.setattr("lexalign.evaluation.endpoint.FIRST_PAUSE", 0.0)
    with JudgeServer(kinder) as server:
        server.failures = [(429, {"Retry-After": "0"}), (503, {}), (500, {})]
        settings = compose([f"evaluate.judge.url={server.url}", "evaluate.judge.model=judge"]).experiment.evaluate.judge
        with Endpoint(settings, first_pause=0.0) as endpoint:
            assert endpoint.ask("s", "<prompt>\np\n</prompt>\n<answer_A>\nglad\n</answer_A>\n<answer_B>\nx\n</answer_B>").endswith("A")
        assert len(server.requests) == 4


def test_a_judge_who_is_gone_costs_the_win_rate_and_nothing_else(caplog):
    server = JudgeServer(kinder)
    server._server.server_close()
    found = asked(server, "evaluate.judge.retries=0")
    assert found.rows == {} and found.counts == {}
    assert "No win rate" in caplog.text and "ConnectError" in caplog.text


def test_a_refusal_is_told_without_the_key(monkeypatch, caplog):
    monkeypatch.setenv("MY_JUDGE_KEY", KEY)
    with JudgeServer(kinder, key="another") as server:
        found = asked(server, "evaluate.judge.key_env=MY_JUDGE_KEY")
    assert found.rows == {} and "status 401" in caplog.text and "Incorrect API key" in caplog.text
    assert KEY not in caplog.text


def test_a_redirect_is_not_followed():
    """It could lead the key elsewhere."""
    with JudgeServer(kinder) as server:
        server.failures = [(307, {"Location": f"{server.url}/chat/completions"})]
        settings = compose([f"evaluate.judge.url={server.url}", "evaluate.judge.model=judge"]).experiment.evaluate.judge
        with Endpoint(settings) as endpoint, pytest.raises(EndpointError, match="status 307"):
            endpoint.ask("s", "q")
        assert len(server.requests) == 1


def test_a_whole_run_with_a_judge_keeps_the_key_to_itself(world, monkeypatch):
    monkeypatch.setenv("MY_JUDGE_KEY", KEY)
    with JudgeServer(lambda prompt, a, b: "Verdict: A", key=KEY) as server:
        result, folder = world.run(
            "train.max_steps=2", "evaluate.limit=4", "evaluate.draws=0", "evaluate.max_new_tokens=8", "hardware.threads=1",
            f"evaluate.judge={{url:'{server.url}',model:judge,key_env:MY_JUDGE_KEY,prompts:3}}",
        )  # fmt: skip
    # Asked once all is trained: the reference's own answers are not judged.
    assert len(server.requests) == 6 and "win_rate" not in result.metrics["before"]
    assert result.metrics["after"]["win_rate"] == 0.5 and result_of(folder)["counts"]["judge_inconsistent"] == 3
    assert json.loads((folder / "measurements.json").read_text())["after"]["win_rate"]["values"] == [0.5] * 3
    assert [file for file in folder.rglob("*") if file.is_file() and KEY.encode() in file.read_bytes()] == []
