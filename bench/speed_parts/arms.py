"""The arms of the bench, each a command a user could type, started as a fresh process under the same clock."""

import ctypes
import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PR_SET_CHILD_SUBREAPER = 36
RANK, ALPHA, BETA, RATE = 16, 32, 0.1, 1e-3


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training run."""

    kind: str
    model: Path
    data: Path
    steps: int
    batch: int
    precision: str
    max_length: int = 1024
    """Longer than any row."""
    packed: int = 1
    """Rows of that length that hold about as much as a batch, for sft."""
    rate: float = RATE
    beta: float = BETA
    rank: int = RANK
    seed: int = 0
    device: str = "cpu"
    threads: int = 1


@dataclass(kw_only=True)
class Seen:
    """What one arm took for one job (or one sweep)."""

    wall: float
    cpu: float
    steps: list[list[float]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)
    reference_rows: int = 0
    peak_gb: float = 0.0
    output: str = ""

    @property
    def step_cpu(self) -> float:
        """CPU seconds of a step: the median, the first left out."""
        return median([b[1] - a[1] for a, b in zip(self.steps, self.steps[1:], strict=False)])

    @property
    def step_wall(self) -> float:
        return median([b[0] - a[0] for a, b in zip(self.steps, self.steps[1:], strict=False)])

    @property
    def token_cpu(self) -> float:
        """CPU seconds of a real token of all steps but the first."""
        return (self.steps[-1][1] - self.steps[0][1]) / (self.tokens[-1] - self.tokens[0])

    @property
    def token_wall(self) -> float:
        return (self.steps[-1][0] - self.steps[0][0]) / (self.tokens[-1] - self.tokens[0])

    @property
    def first_step(self) -> float:
        """Wall seconds from the start of the process to the end of the first step."""
        return self.steps[0][0]


def median(values: list[float]) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) // 2] if ordered else float("nan")


def trl_cli(job: Job, out: Path) -> list[str]:
    """A: `trl dpo` or `trl sft` at its defaults, but for what makes it the same training."""
    return [
        str(Path(sys.executable).with_name("trl")), job.kind, "--model_name_or_path", str(job.model),
        "--dataset_name", str(job.data), "--use_peft",
        "--lora_r", str(job.rank), "--lora_alpha", str(ALPHA), "--lora_dropout", "0", "--lora_target_modules", "all-linear",
        "--max_length", str(job.max_length),
        "--max_steps", str(job.steps), "--per_device_train_batch_size", str(job.batch), "--learning_rate", str(job.rate),
        "--lr_scheduler_type", "constant", "--seed", str(job.seed), "--data_seed", str(job.seed), "--logging_steps", "1",
        "--report_to", "none",
        "--save_strategy", "no", "--output_dir", str(out), "--bf16", str(job.precision == "bf16"), "--disable_tqdm", "True",
        *(["--beta", str(job.beta)] if job.kind == "dpo" else []), *(["--use_cpu", "True"] if job.device == "cpu" else []),
    ]  # fmt: skip


def trl_tuned(job: Job, out: Path) -> list[str]:
    """B: a script of one's own on TRL's trainers, tuned as well as we can."""
    return [
        sys.executable,
        str(HERE / "trl_tuned.py"),
        json.dumps({**vars(job), "model": str(job.model), "data": str(job.data), "out": str(out)}),
    ]


def llama_factory(job: Job, out: Path, python: Path) -> list[str]:
    """E: LLaMA-Factory's command line at its defaults, in an environment of its own; its empty template adds nothing to rows that hold
    their own EOS."""
    out.mkdir(parents=True)
    columns = {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}
    rows = {"file_name": str(job.data / "train.jsonl"), "ranking": True, "columns": columns}
    (out / "dataset_info.json").write_text(json.dumps({"rows": rows}))
    settings = {
        "stage": "dpo", "do_train": True, "model_name_or_path": str(job.model), "dataset_dir": str(out), "dataset": "rows",
        "template": "empty", "cutoff_len": job.max_length, "finetuning_type": "lora", "lora_rank": job.rank, "lora_alpha": ALPHA,
        "lora_dropout": 0, "lora_target": "all", "pref_beta": job.beta, "output_dir": str(out / "saved"), "max_steps": job.steps,
        "per_device_train_batch_size": job.batch, "learning_rate": job.rate, "lr_scheduler_type": "constant", "seed": job.seed,
        "data_seed": job.seed, "logging_steps": 1, "save_strategy": "no", "report_to": "none", "use_cpu": job.device == "cpu",
        "bf16": job.precision == "bf16", "disable_tqdm": True,
    }  # fmt: skip
    file = out / "train.yaml"  # JSON is YAML; its reader of .json fails
    file.write_text(json.dumps(settings))
    return [str(python.with_name("llamafactory-cli")), "train", str(file)]


def ours(job: Job, out: Path, *, fast: bool, store: Path) -> list[str]:
    """C and D: run.py."""
    return [
        sys.executable, str(ROOT / "run.py"),
        *(["stage=align", "method=dpo", f"method.beta={job.beta}"] if job.kind == "dpo" else ["stage=sft"]),
        "model=none", f"model.path={job.model}", f"data.path={job.data}", "data.eval_split=null", "data.eval_fraction=null",
        "tracking=none", "evaluate.enabled=false", f"output_dir={out}", f"store={store}", f"train.max_steps={job.steps}",
        f"train.batch_size={job.batch}", f"train.learning_rate={job.rate}", "train.scheduler=constant", "train.warmup_steps=0",
        "train.log_steps=1", f"train.save_steps={10**6}", f"train.max_length={job.max_length}", f"train.fast_path={fast}".lower(),
        f"adapter.rank={job.rank}", f"adapter.alpha={ALPHA}", f"seed={job.seed}", f"hardware={job.device}",
        f"hardware.precision={job.precision}", f"hardware.threads={job.threads}",
        "model.dtype=float32",  # as A loads it
    ]  # fmt: skip


def run(command: list[str], scratch: Path, *, threads: int, device: str = "cpu") -> Seen:
    """Run a command whole; raises SystemExit with its output where it fails."""
    clock = scratch / "clock"
    for old in scratch.glob("clock.*"):
        old.unlink()
    env = {
        **os.environ, "PYTHONPATH": str(HERE / "clock"), "BENCH_CLOCK": str(clock), "BENCH_STARTED": str(time.time()), 
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false",
        **({"ACCELERATE_USE_CPU": "1"} if device == "cpu" else {}),
        "HF_DATASETS_CACHE": str(scratch / "datasets"),
    }  # fmt: skip
    before, start = used(), time.time()
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=scratch)
    wall = time.time() - start
    reap_orphans()
    seen = Seen(wall=wall, cpu=used() - before, output=done.stdout + done.stderr)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{seen.output[-4000:]}")
    for file in sorted(scratch.glob("clock.*")):
        measurement = json.loads(file.read_text())
        seen.steps += measurement["steps"]
        seen.losses += measurement["losses"]
        seen.norms += measurement["norms"]
        seen.tokens += measurement["tokens"]
        seen.reference_rows += measurement["reference_rows"]
        seen.peak_gb = max(seen.peak_gb, measurement["peak_kb"] * 1024 / 1e9)
    return seen


def adopt_orphans() -> None:
    """Become the parent of what a command leaves behind, so that its CPU seconds are counted: jobs of a sweep are forked from a server
    that outlives the command by a moment. Linux only."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap_orphans() -> None:
    """Wait until all that a command left behind has ended."""
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def used() -> float:
    """CPU seconds of all processes waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
