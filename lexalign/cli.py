"""The command line: check the settings before anything is written, then run one job or the jobs of a sweep."""

import atexit
import logging
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import get_method
from omegaconf import DictConfig

from lexalign.artifacts.terminal import outlive_terminal
from lexalign.cache import cache
from lexalign.compat import get_hydra_parser, pause_garbage_collection
from lexalign.config.command_line import arrange_words
from lexalign.config.compose import compose
from lexalign.config.context import RunContext
from lexalign.config.loading import Sources
from lexalign.config.overrides import get_key
from lexalign.config.packages import register_packages
from lexalign.config.paths import CONF, find_write_problem
from lexalign.config.schema import Experiment
from lexalign.config.secrets import clean_line, guard_streams, redact
from lexalign.errors import ConfigError, LexAlignError, Stopped
from lexalign.runs.run_log import print_error
from lexalign.training import signals

log = logging.getLogger(__name__)
SHOWN = 30
"""The largest number of problems that are printed. Of further problems, only the number is printed."""
COMMANDS = {
    "doctor": "lexalign.commands.doctor.main",
    "schema": "lexalign.commands.json_schema.main",
    "explain": "lexalign.commands.explain.main",
}
"""First words that are not settings, each with a function that takes the words after it and returns the exit code."""


class JobFailed(Exception):
    """A job of a multirun failed; the reason is on the terminal and in the job's run.log."""


def main() -> None:
    """The command: `lexalign …`, `python -m lexalign …` and, in a checkout, `python run.py …`."""
    if len(sys.argv) > 1 and sys.argv[1] in COMMANDS:
        sys.exit(get_method(COMMANDS[sys.argv[1]])(sys.argv[2:]))
    if "--explain" in sys.argv:
        words = sys.argv[1:]
        index = words.index("--explain")
        sys.exit(get_method(COMMANDS["explain"])([*words[index + 1 : index + 2], *words[:index], *words[index + 2 :]]))
    signals.exit_on_signals()
    sys.argv[1:] = check_command_line(sys.argv[1:])
    try:
        hydra.main(version_base=None, config_path=str(CONF), config_name="config")(run_job)()
    except SystemExit as end:
        if end.code in signals.CODES.values():
            signals.exit_now(int(end.code or 0))
        raise


def check_command_line(argv: Sequence[str]) -> list[str]:
    """The words for Hydra. Exits with 2 and every problem of every job before anything is written.

    Exits with 0 after an action that is not a run (`cache`, `compare`, `reproduce`, `report`).
    """
    guard_streams()
    with pause_garbage_collection():
        words, experiments = check_arguments(argv)
    for experiment in experiments:
        perform_action(experiment)
        sys.exit(0)
    return words


def check_arguments(argv: Sequence[str]) -> tuple[list[str], list[Experiment]]:
    """The words for Hydra, and the experiments that ask for an action instead of a run. Options such as `--help` are not checked."""
    try:
        register_packages()
        words = arrange_words(argv)
        args = get_hydra_parser().parse_args(words)
        if args.config_dir and not Path(args.config_dir).is_dir():
            raise ConfigError(f"--config-dir {args.config_dir}: there is no such folder")
        if args.help or args.hydra_help or args.cfg or args.info or args.shell_completion:
            return words, []
        sources = Sources((args.config_dir,) if args.config_dir else ())
        if args.multirun:
            from lexalign.sweeps import check, plugins

            plugins.register()
            check.refuse_wrong(args.overrides, sources)
            return words, []
        experiment = compose(args.overrides, sources, problems=find_sweep_only_settings(args.overrides)).experiment
    except ConfigError as error:
        exit_with_problems(error.problems)
    if experiment.dry_run and find_write_problem(Path(experiment.output_dir)):
        words.append(f"hydra.run.dir='{make_passing_folder()}'")
    has_action = experiment.cache.action != "keep" or experiment.compare or experiment.reproduce or experiment.report
    return words, [experiment] if has_action else []


def make_passing_folder() -> str:
    """A temporary folder that is removed when this process ends. Hydra needs a folder for a dry run too."""
    folder = tempfile.mkdtemp(prefix="lexalign-dry-run-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def find_sweep_only_settings(overrides: Sequence[str]) -> list[str]:
    """Problems with settings that a single run does not read."""
    keys = [get_key(override) for override in overrides]
    sweep_keys = [key for key in keys if key.split(".")[0] == "sweep"]
    return [f"{key}: is for a sweep; type python run.py -m …, or leave it out" for key in sweep_keys]


def perform_action(experiment: Experiment) -> None:
    """Do the action of `cache`, `compare`, `report` or `reproduce`. Exits with 2 if it cannot be done, 1 if a run has another result."""
    if experiment.cache.action != "keep":
        print(cache.manage_cache(experiment))
    if experiment.compare:
        from lexalign.evaluation import compare
        from lexalign.sweeps import comparison

        try:
            compare.show_comparison(comparison.list_runs(experiment.compare))
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
        print(f"  - {clean_line(problem)}", file=sys.stderr)
    if len(problems) > SHOWN:
        print(f"  … and {len(problems) - SHOWN} more", file=sys.stderr)
    sys.exit(ConfigError.exit_code)


def run_job(cfg: DictConfig) -> float | None:
    """Run one job in the folder that Hydra made for it; return its score, or None if it has none."""
    outlive_terminal()
    job = HydraConfig.get()
    out_dir = Path(job.runtime.output_dir)
    is_multirun = job.mode == RunMode.MULTIRUN
    folders = [source.path for source in job.runtime.config_sources if source.provider.startswith(("command-line", "hydra.searchpath"))]
    sources = Sources(tuple(folders))
    try:
        overrides = list(job.overrides.task)
        composition = compose(overrides, sources)  # not Hydra's own tree, because some options depend on the model
        from lexalign.runs import execute

        name = " ".join(part for part in overrides if not part.startswith(("output_dir=", "store=", "tracking", "sweep="))) or "defaults"
        group = Path(job.sweep.dir).name if is_multirun else None
        return execute.execute(composition, RunContext(out_dir=out_dir, name=name, group=group, sources=sources)).score
    except Stopped as stop:
        print(f"{stop}; what was saved is whole: the same command with output_dir={out_dir} goes on", file=sys.stderr)
        if stop.status == "stopped":
            signals.requeue_job()
        sys.exit(stop.exit_code)  # also ends a multirun; after SIGTERM, Slurm may run the job again, and that run gives the result
    except Exception as error:
        print_error(error, job_name=f"job {out_dir.name}: " if is_multirun else "", out_dir=out_dir)
        remove_if_empty(out_dir)
        if not is_multirun:
            sys.exit(error.exit_code if isinstance(error, LexAlignError) else 1)
        # A new exception, because Hydra's launcher keeps it, and the traceback of the old one would keep the job's tensors in memory.
        failure = JobFailed(redact(f"{type(error).__name__}: {error}"))
    raise failure


def remove_if_empty(folder: Path) -> None:
    """Remove the folder that Hydra made for a job if the job wrote nothing into it."""
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
