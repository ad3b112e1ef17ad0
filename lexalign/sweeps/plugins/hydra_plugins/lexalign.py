"""What Hydra finds under `hydra/sweeper=lexalign` and `hydra/launcher=local`."""

import sys
from collections.abc import Sequence
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig

from lexalign.artifacts.terminal import outlive_terminal
from lexalign.config.loading import Sources
from lexalign.errors import LexAlignError
from lexalign.runs.run_log import print_error_and_exit
from lexalign.sweeps import fingerprint, points


class Local(Launcher):
    """`hydra/launcher=local`: each job in a process of its own on this machine; `lexalign.sweeps.processes` does it."""

    def setup(self, *, hydra_context: Any, task_function: Any, config: DictConfig) -> None:
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        raise NotImplementedError("hydra/launcher=local is driven by hydra/sweeper=lexalign; type sweep=grid or sweep=optuna")


class Points(Sweeper):
    """`hydra/sweeper=lexalign`: the points of `-m`, through a ledger, on whatever launcher is chosen."""

    def setup(self, *, hydra_context: Any, task_function: Any, config: DictConfig) -> None:
        sources = hydra_context.config_loader.get_sources()
        folders = tuple(source.path for source in sources if source.provider == "command-line")
        self.request = points.parse_request(config.hydra.overrides.task, Sources(folders))
        try:
            self.folder = fingerprint.claim_folder(self.request)
        except LexAlignError as error:
            print_error_and_exit(error)
        config.hydra.sweep.dir = str(self.folder.absolute())  # launchers keep files of their own there
        self.launcher = Plugins.instance().instantiate_launcher(hydra_context=hydra_context, task_function=task_function, config=config)

    def sweep(self, arguments: list[str]) -> None:
        from lexalign.sweeps import run

        outlive_terminal()
        try:
            settings, _ = fingerprint.read_sweep_settings(self.request)
            with run.open_plan(self.request, settings, self.folder, command=sys.argv[1:]) as plan:
                run.run_sweep(plan, None if isinstance(self.launcher, Local) else self.launcher)
        except LexAlignError as error:
            print_error_and_exit(error)
