"""A terminal that is closed, full or not there: the run goes on, its log says so, and progress is plain lines."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from experiment_runner import ROOT, python_path, result_of

from lexalign.artifacts.terminal import TolerantStream, has_progress_bars, outlive_terminal
from lexalign.training import signals

RUN = (
    "tracking=none", "evaluate.enabled=false", "hardware.threads=1", "preflight=skip", "data.limit=24", "train.batch_size=4",
    "output_dir=run", "store=store",
)  # fmt: skip
TALK = """
import logging, sys
from lexalign.artifacts.terminal import outlive_terminal
outlive_terminal()
logging.basicConfig(filename=sys.argv[1], level=logging.INFO)
for number in range(20000):
    print("out", number, flush=number % 100 == 0)
    print("error", number, file=sys.stderr)
open(sys.argv[1] + ".end", "w").write("reached")
"""


def talk(folder: Path, **streams) -> tuple[int, str]:
    """Print much from a process with these streams; its exit code and its log."""
    command = [sys.executable, "-c", TALK, str(folder / "log")]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": python_path()}, **streams) as process:
        if process.stdout:
            process.stdout.read(10)
            process.stdout.close()  # as `head -1` does
        code = process.wait(60)
    assert (folder / "log.end").read_text() == "reached"
    return code, (folder / "log").read_text()


def test_a_reader_that_goes_away_silences_the_output_only(tmp_path):
    code, log = talk(tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert code == 0 and log.count("stdout cannot be written any more (Broken pipe); the run goes on") == 1 and "stderr" not in log


def test_a_full_device_silences_both(tmp_path):
    with open("/dev/full", "w") as full:
        code, log = talk(tmp_path, stdout=full, stderr=full)
    assert code == 0 and log.count("stdout cannot") == log.count("stderr cannot") == 1 and "No space left on device" in log


def test_streams_that_were_never_open(tmp_path):
    command = f'{sys.executable} -c "$TALK" {tmp_path}/log >&- 2>&-'
    code = subprocess.run(["bash", "-c", command], env={**os.environ, "PYTHONPATH": python_path(), "TALK": TALK}).returncode
    assert code == 0 and (tmp_path / "log.end").read_text() == "reached"


def test_a_slow_reader_is_not_a_closed_one(monkeypatch):
    class Slow:
        texts: list[str] = []

        def write(self, text: str) -> None:
            if text == "lost":
                raise BlockingIOError
            self.texts.append(text)

    stream = TolerantStream(Slow(), "stdout")
    assert [stream.write(text) for text in ("one", "lost", "two")] == [3, 4, 3] and stream.texts == ["one", "two"]


def test_streams_are_wrapped_once(monkeypatch):
    before = sys.stdout
    monkeypatch.setattr(sys, "stdout", before)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    outlive_terminal()
    wrapped = sys.stdout
    outlive_terminal()
    assert isinstance(wrapped, TolerantStream) and sys.stdout is wrapped and wrapped.encoding == before.encoding


def test_a_run_without_a_terminal_prints_plain_lines_and_outlives_its_reader(tmp_path):
    """stdout is closed after its first line, stderr is a file."""
    with (tmp_path / "errors").open("w") as errors:
        command = [sys.executable, str(ROOT / "run.py"), *RUN, "train.max_steps=12", "train.log_steps=5"]
        with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=errors) as process:
            process.stdout.close()
            assert process.wait(200) == 0, (tmp_path / "errors").read_text()[-3000:]
    result, said = result_of(tmp_path / "run"), (tmp_path / "errors").read_text()
    assert result["status"] == "finished" and "\r" not in said and "\x1b" not in said
    steps = re.findall(
        r"^sft lora: step (\d+)/12(?:, loss \d\.\d{4}(?:, [\d,]+ tokens/s)?, \d+\.\d\d step/s, \d\d:\d\d left)?$", said, re.M
    )
    assert steps == ["0", "1", "5", "10"], said


def test_bars_are_for_terminals_and_not_for_ci(monkeypatch):
    main, other = pty.openpty()
    with os.fdopen(other, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.delenv("CI", raising=False)
        assert has_progress_bars()
        monkeypatch.setenv("CI", "true")
        assert not has_progress_bars()
    monkeypatch.delenv("CI")
    with open(os.devnull, "w") as nowhere:
        monkeypatch.setattr(sys, "stderr", nowhere)
        assert not has_progress_bars()
    os.close(main)


def test_sighup_is_left_alone_where_it_is_ignored():
    """nohup has it ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert signal.SIGHUP not in signals.list_stop_signals() and signal.SIGTERM in signals.list_stop_signals()
        with signals.handle_signals():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        assert signal.SIGHUP in signals.list_stop_signals()
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.slow
@pytest.mark.parametrize("ignored", [True, False], ids=["nohup", "a closed terminal"])
@pytest.mark.parametrize("processes", [1, 2])
def test_sighup_ends_a_run_as_sigterm_does_unless_it_was_ignored(tmp_path, processes, ignored):
    """The signal goes to the whole group of processes, as a closing terminal sends it."""
    more = ["hardware=ddp", "hardware.device=cpu", "hardware.processes=2"] if processes == 2 else []
    command = [sys.executable, str(ROOT / "run.py"), *RUN, "train.max_steps=60", "train.log_steps=1", *more]
    ignore = lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)  # noqa: E731
    metrics = tmp_path / "run" / "metrics.jsonl"
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, preexec_fn=ignore, start_new_session=True
    ) as life:
        while life.poll() is None and not (metrics.is_file() and metrics.read_text().count("\n") > 2):
            pass
        os.killpg(life.pid, signal.SIGHUP)
        said = life.communicate(timeout=300)[1]
    result = result_of(tmp_path / "run")
    if ignored:
        assert life.returncode == 0 and result["status"] == "finished", said[-3000:]
        return
    assert life.returncode == 129 and result["status"] == "interrupted" and "SIGHUP" in result["error"], said[-3000:]
    (checkpoint,) = (tmp_path / "run" / "checkpoints").glob("checkpoint-*")
    assert int(checkpoint.name.split("-")[1]) == json.loads(metrics.read_text().splitlines()[-1])["step"]
