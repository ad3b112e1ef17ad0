"""The whole."""

from dataclasses import dataclass
from typing import Annotated, Literal

from lexalign.config.parsing import Range, TypedOnly
from lexalign.config.schema.cache import Cache
from lexalign.config.schema.data import Data
from lexalign.config.schema.evaluate import Evaluate
from lexalign.config.schema.hardware import Hardware
from lexalign.config.schema.methods import Method
from lexalign.config.schema.model import Adapter, Model
from lexalign.config.schema.stages import Chat, Download, Export, Stage
from lexalign.config.schema.sweep import Sweep
from lexalign.config.schema.tracking import Tracking
from lexalign.config.schema.train import Preflight, Train


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One run, whole."""

    seed: Annotated[int, Range(least=0, most=2**32 - 1)]
    """Of everything that is drawn: initial adapters, order of the rows, dropout."""
    dry_run: bool
    """Print the plan and stop."""
    verbose: bool
    """Log the libraries' own messages too."""
    resume: Annotated[str, TypedOnly("it names a checkpoint that is loaded")]
    """auto = go on with the run in its folder, from its newest whole checkpoint; never = refuse a folder that holds a run; else the run or
    checkpoint to start from, as long as the run has none of its own."""
    resume_allow: list[str]
    """Settings (or groups of them; `model` and `data` for the files they name) that may differ from those the run was begun with."""
    output_dir: Annotated[str, TypedOnly("it names a folder that is written to")]
    """The run's folder (the sweep's, in a multirun)."""
    store: Annotated[str, TypedOnly("it names a folder that is written to and cleared")]
    """Folder of what runs share: finished parents, tokenised rows and reference log-probabilities, all by content."""
    compare: Annotated[list[str], TypedOnly("it reads other folders instead of running")]
    """Folders of finished runs: compare their measurements on the same rows instead of running."""
    reproduce: Annotated[str | None, TypedOnly("it runs what another folder recorded")]
    """Folder of a finished run: make it again from what it recorded and compare the artifact byte by byte, instead of running."""
    report: Annotated[str | list[str] | None, TypedOnly("it reads and writes other folders")]
    """Folder of a sweep, or folders of sweeps and runs: write report.html and print its table instead of running. One sweep's is written
    into its folder, any other into `output_dir`."""
    report_csv: Annotated[str | None, TypedOnly("it names a file that is written")]
    """File.csv for all jobs of that report, a column each setting and each metric."""
    deterministic: Literal["off", "warn", "strict"]
    """Only algorithms that give the same bits each time: strict = refuse others, warn = say where others are used, off = torch's choice
    (on the CPU the same, as far as is known; on CUDA some backward passes add in any order)."""
    cache: Cache
    """How much of that is kept."""
    extensions: Annotated[list[str], TypedOnly("it names code that is run")]
    """Packages of the user's own whose classes `_target_` may name; read from the command line only."""
    stage: Stage
    """What the run does."""
    method: Method | None
    """How it trains; null where nothing is trained."""
    adapter: Adapter | None
    """Which weights it trains; null where nothing is trained."""
    model: Model
    """What it starts from."""
    data: Data
    """What it trains and measures on."""
    hardware: Hardware
    """What it runs on."""
    tracking: Tracking
    """Where its numbers are shown."""
    train: Train | None
    """The training loop."""
    preflight: Preflight
    """What is looked at before it trains."""
    evaluate: Evaluate
    """The measurement before and after; false = none."""
    download: Download
    """How stage=download fetches."""
    export: Export
    """What stage=export makes."""
    chat: Chat
    """How stage=chat talks."""
    sweep: Sweep
    """How `-m` chooses and runs its points."""
