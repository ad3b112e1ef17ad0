"""Runs that tests kill, stop and starve. Their processes are forked from one that has imported everything: a life costs its steps only."""

import contextlib
import hashlib
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path

from experiment_runner import World, python_path

from lexalign.errors import DiskFull, LexAlignError, Stopped
from lexalign.training import signals

context = multiprocessing.get_context("forkserver")


def warm_up() -> None:
    """Start the process that is forked from. It finds `forkserver_imports` by its environment only: Python 3.11 hands it no sys.path."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = python_path(Path(__file__).parent)
    try:
        context.set_forkserver_preload(["forkserver_imports"])
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


SMALL = (
    "evaluate.enabled=false", "hardware.threads=1", "data.limit=24", "train.max_length=96", "train.batch_size=4", "train.log_steps=1",
    "train.epochs=2", "train.keep_checkpoints=2", "preflight=skip",
)  # fmt: skip
METHODS = {
    "sft": ("adapter.dropout=0.1",),  # so that a random number more or less would show
    "dpo": ("stage=align", "model=tiny", "data.limit=20"),
    "gdpo": ("stage=align", "model=tiny", "method=gdpo", "data.limit=20"),
}
SAVING = {
    "step": ("train.save_steps=2",),
    "epoch": (),
    "eval": ("train.save_steps=3", "train.eval_steps=2"),
    "packed": ("train.save_steps=2", "train.packing=true", "train.batch_size=1", "data.limit=20"),
}
CASES = [(method, saving) for method in METHODS for saving in SAVING if saving != "packed" or method == "sft"]
STEPS_AT_STAKE = {"step": 2, "epoch": 6, "eval": 3, "packed": 2}
"""Steps between two saves: what a kill may cost."""


def words_of(method: str, saving: str) -> tuple[str, ...]:
    """The command line of a case; of a setting named twice, the later one."""
    named = {word.split("=", 1)[0]: word for word in (*SMALL, *METHODS[method], *SAVING[saving])}
    return tuple(named.values())


@dataclass(frozen=True)
class Fate:
    """What happens to one life (one process) of a run."""

    event: int | None = None
    """SIGKILL when it opens, makes, renames or removes something among its checkpoints for the so-many-th time: around its saves."""
    cpu: float | None = None
    """`number` (a signal) after so many seconds of CPU, wherever it is then; the machine may be busy with other things."""
    number: signal.Signals = signal.SIGKILL
    full_at: int | None = None
    """The disk that the run's folder is on is full from the so-many-th time on that it opens, makes, renames or removes something there."""
    largest_file: int | None = None
    """From the first checkpoint on, no file may grow beyond so many bytes: what a full disk or a quota does."""


def live(world: Path, out_dir: Path, words: tuple[str, ...], fate: Fate) -> None:
    """One life of a run, in a process of its own; its exit code is the command's."""
    signals.exit_on_signals()
    with (out_dir.parent / f"{out_dir.name}.said").open("a") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    print("A life begins", flush=True)
    if fate.event is not None:
        at_event(out_dir / "checkpoints", fate.event, lambda: os.kill(os.getpid(), signal.SIGKILL))
    if fate.full_at is not None:
        at_event(out_dir, fate.full_at, lambda: fill(out_dir.parent))
    if fate.cpu is not None:
        threading.Thread(target=kill_after, args=(fate.cpu, fate.number), daemon=True).start()
    if fate.largest_file is not None:
        grow_no_more(fate.largest_file)
    code = 0
    try:
        World(world).run(*words, out_dir=out_dir)
    except Stopped as stop:
        code = stop.exit_code
    except LexAlignError as error:
        print(error)
        code = error.exit_code
    print(f"CPU: {time.process_time()}", flush=True)
    os._exit(code)


def at_event(folder: Path, at: int, act: Callable[[], object]) -> None:
    """Act when this process opens, makes, renames or removes something below the folder for the so-many-th time."""
    seen = 0

    def watch(event: str, arguments: tuple) -> None:
        nonlocal seen
        if event in ("open", "os.rename", "os.mkdir", "os.rmdir", "os.remove") and str(arguments[0]).startswith(str(folder)):
            seen += 1
            if seen == at:
                act()

    sys.addaudithook(watch)


def fill(folder: Path) -> None:
    """Take all the room there is on a disk."""
    with (folder / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def kill_after(seconds: float, number: signal.Signals) -> None:
    """`Fate.cpu`."""
    while time.process_time() < seconds:
        time.sleep(0.003)
    os.kill(os.getpid(), number)


def grow_no_more(largest: int) -> None:
    """`Fate.largest_file`."""

    def watch(event: str, arguments: tuple) -> None:
        if event == "os.rename" and "checkpoint-" in Path(arguments[1]).name:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))

    sys.addaudithook(watch)


@dataclass
class Case:
    """A run that is killed and goes on, against one that nobody disturbs."""

    world: Path
    out_dir: Path
    words: tuple[str, ...]
    lives: list[int] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)

    def start(self, *more: str, fate: Fate | None = None) -> BaseProcess:
        """Begin a life."""
        process = context.Process(target=live, args=(self.world, self.out_dir, (*self.words, *more), fate or Fate()))
        process.start()
        return process

    def end(self, process: BaseProcess) -> int:
        """Wait for it; its exit code, negative for a signal. Counts the steps that it had made since its last whole checkpoint."""
        process.join(300)
        assert process.exitcode is not None, "it hangs"
        self.lives.append(process.exitcode)
        self.lost.append(steps_at_stake(self.out_dir))
        return process.exitcode

    def whole(self) -> "Case":
        """To its end."""
        assert self.end(self.start()) == 0, self.said()[-3000:]
        return self

    def training(self) -> BaseProcess:
        """Begin a life and wait until it has logged a step."""
        file, began = self.out_dir / "metrics.jsonl", time.time()
        process = self.start()
        while process.is_alive() and not (file.is_file() and file.stat().st_mtime > began and steps_at_stake(self.out_dir)):
            time.sleep(0.01)
        return process

    def met(self, process: BaseProcess, number: signal.Signals) -> int:
        """Send a signal to a life and wait for its end; its exit code."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)
        return self.end(process)

    def said(self) -> str:
        """What all lives said."""
        file = self.out_dir.parent / f"{self.out_dir.name}.said"
        return file.read_text() if file.is_file() else ""

    def cpu(self) -> float:
        """Seconds of CPU that the last life took to its end."""
        return float(self.said().rpartition("CPU: ")[2])

    def weights(self) -> str:
        """sha256 of what was trained."""
        (file,) = (self.out_dir / "artifact").glob("*.safetensors")
        return hashlib.sha256(file.read_bytes()).hexdigest()

    def course(self) -> list[dict[str, float]]:
        """Everything logged but what depends on the clock."""
        lines = [json.loads(line) for line in (self.out_dir / "metrics.jsonl").read_text().splitlines()]
        return [
            {key: value for key, value in line.items() if not any(word in key for word in ("second", "runtime", "step_time"))}
            for line in lines
        ]


def newest(out_dir: Path) -> int:
    """The step of the newest checkpoint that has its name."""
    return max((int(path.name.split("-")[1]) for path in (out_dir / "checkpoints").glob("checkpoint-*")), default=0)


def steps_at_stake(out_dir: Path) -> int:
    """Steps that a run has logged since its newest checkpoint."""
    file = out_dir / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.is_file() else []
    last = json.loads(lines[-1])["step"] if lines and lines[-1].endswith("}") else 0
    return max(0, last - newest(out_dir))


def run_undisturbed(world: Path, method: str, saving: str) -> Case:
    """A case run to its end."""
    return Case(world, world / f"{method}-{saving}-whole", words_of(method, saving)).whole()


def run_killed(whole: Case, folder: Path, chance: random.Random, *, kills: int) -> list[Case]:
    """Runs of a case, in folders of their own, that are killed `kills` times, each at its end: half of the kills at an event of a
    save, half at any time. A life that ends before its fate meets it ends its folder, and the next begins in another."""
    cpu, cases = whole.cpu(), [Case(whole.world, folder / "0", whole.words)]
    left = kills
    while left:
        fate = Fate(event=chance.randint(1, 110)) if left % 2 else Fate(cpu=chance.uniform(0.05, 1) * cpu)
        code = cases[-1].end(cases[-1].start(fate=fate))
        assert code in (0, -signal.SIGKILL), cases[-1].said()[-3000:]
        if code:
            left -= 1
        elif left:
            cases.append(Case(whole.world, folder / str(len(cases)), whole.words))
    cases[-1].whole()
    return cases


def run_on_full_disk(whole: Case, place: Path, moments: list[int]) -> dict[int, int]:
    """Runs of a case on a disk of their own, `place`, which is full from a moment on; then there is room again. Their exit codes then."""
    codes = {}
    for at in moments:
        case = Case(whole.world, place / str(at), whole.words)
        codes[at] = case.end(case.start(fate=Fate(full_at=at)))
        assert codes[at] in (0, DiskFull.exit_code), f"{at}: {case.said()[-3000:]}"
        if codes[at]:
            assert " MB" in case.said() and f"at {place}" in case.said(), case.said()[-3000:]
        (place / "filler").unlink(missing_ok=True)
        case.whole()
        assert case.weights() == whole.weights() and case.course() == whole.course()
        shutil.rmtree(case.out_dir)
    return codes
