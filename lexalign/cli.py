"""Between the command line and a run: refuse before anything is written, then run one job of Hydra's."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from lexalign.cache import cache
from lexalign.compat import pause_garbage_collection
from lexalign.config.compose import check_tree, compose
from lexalign.config.context import RunContext
from lexalign.config.loading import Sources
from lexalign.config.overrides import get_key
from lexalign.config.schema import Experiment
from lexalign.config.secrets import redact
from lexalign.errors import ConfigError, LexAlignError, Stopped
from lexalign.runs.run_log import print_error
from lexalign.training import signals

log = logging.getLogger(__name__)
SHOWN = 30


class JobFailed(Exception):
    """A job of a multirun failed; the reason is on the terminal and in the job's run.log."""


def check_command_line(argv: Sequence[str]) -> None:
    """`checked`, and what is asked for instead of a run."""
    with pause_garbage_collection():
        instead = check_arguments(argv)
    for experiment in instead:
        perform_action(experiment)
        sys.exit(0)


def check_arguments(argv: Sequence[str]) -> list[Experiment]:
    """Before Hydra makes a folder: exit 2 with every problem of every job; the jobs that ask for something else than a run (`cache`,
    `compare`, `reproduce`, `report`). Questions to Hydra pass."""
    args = get_args_parser().parse_args(argv)
    if args.help or args.hydra_help or args.cfg or args.info or args.shell_completion:
        return []
    if args.config_name or args.config_path:
        exit_with_problems(
            ["--config-name, --config-path: conf/config.yaml is the one root; write an experiment file and type experiment=<name>"]
        )
    if args.config_dir and not Path(args.config_dir).is_dir():
        exit_with_problems([f"--config-dir {args.config_dir}: there is no such folder"])
    sources = Sources((args.config_dir,) if args.config_dir else ())
    try:
        if args.multirun:
            from lexalign.sweeps import check, plugins

            plugins.register()
            check.refuse_wrong(args.overrides, sources)
            return []
        experiment = compose(args.overrides, sources, problems=find_sweep_only_settings(args.overrides)).experiment
    except ConfigError as error:
        exit_with_problems(error.problems)
    instead = experiment.cache.action != "keep" or experiment.compare or experiment.reproduce or experiment.report
    return [experiment] if instead else []


def find_sweep_only_settings(overrides: Sequence[str]) -> list[str]:
    """Problems with settings that a single run would not read."""
    keys = [get_key(override) for override in overrides]
    own = [key for key in keys if key.split(".")[0] == "sweep"]
    return [f"{key}: is for a sweep; type python run.py -m …, or leave it out" for key in own]


def perform_action(experiment: Experiment) -> None:
    """What `cache`, `compare`, `report` or `reproduce` asks for; exits 2 where it cannot be done, 1 where a run comes out otherwise."""
    if experiment.cache.action != "keep":
        print(cache.manage_cache(experiment))
    if experiment.compare:
        from lexalign.evaluation import compare

        try:
            compare.show_comparison(experiment.compare)
        except ConfigError as error:
            exit_with_problems(error.problems)
    if experiment.report:
        from lexalign.sweeps import report

        try:
            report.show_report(experiment)
        except ConfigError as error:
            exit_with_problems(error.problems)
    if experiment.reproduce:
        from lexalign.runs import reproduce

        try:
            if not reproduce.reproduce_run(experiment.reproduce, experiment):
                sys.exit(1)
        except LexAlignError as error:
            print_error(error, job_name="", out_dir=Path(experiment.output_dir))
            sys.exit(error.exit_code)


def exit_with_problems(problems: Sequence[str]) -> NoReturn:
    """Print the problems and exit 2."""
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    print(f"{count} in the settings; nothing was run or written:", file=sys.stderr)
    for problem in problems[:SHOWN]:
        print(redact(f"  - {problem}"), file=sys.stderr)
    if len(problems) > SHOWN:
        print(f"  … and {len(problems) - SHOWN} more", file=sys.stderr)
    sys.exit(ConfigError.exit_code)


def run_job(cfg: DictConfig) -> float | None:
    """Run one job in the folder Hydra made for it; its score, or None where it has none."""
    job = HydraConfig.get()
    out_dir = Path(job.runtime.output_dir)
    multirun = job.mode == RunMode.MULTIRUN
    folders = [source.path for source in job.runtime.config_sources if source.provider.startswith(("command-line", "hydra.searchpath"))]
    sources = Sources(tuple(folders))
    try:
        overrides = list(job.overrides.task)
        composed = check_tree(cfg, overrides, sources)
        from lexalign.runs import execute

        name = " ".join(part for part in overrides if not part.startswith(("output_dir=", "store=", "tracking", "sweep="))) or "defaults"
        group = Path(job.sweep.dir).name if multirun else None
        return execute.execute(composed, RunContext(out_dir=out_dir, name=name, group=group, sources=sources)).score
    except Stopped as stop:
        print(f"{stop}; what was saved is whole: the same command with output_dir={out_dir} goes on", file=sys.stderr)
        if stop.status == "stopped":
            signals.requeue_job()
        sys.exit(stop.exit_code)  # a whole multirun, too; after SIGTERM, Slurm may be about to run the job again: that will give the answer
    except Exception as error:
        print_error(error, job_name=f"job {out_dir.name}: " if multirun else "", out_dir=out_dir)
        remove_if_empty(out_dir)
        if not multirun:
            sys.exit(error.exit_code if isinstance(error, LexAlignError) else 1)
        # A fresh exception, because Hydra's launcher keeps it, and the traceback would keep the job's tensors alive.
        failed = JobFailed(redact(f"{type(error).__name__}: {error}"))
    raise failed


def remove_if_empty(folder: Path) -> None:
    """Remove the folder Hydra made for a job that was refused before it wrote anything."""
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
