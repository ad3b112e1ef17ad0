"""Every setting of an experiment: its type, its range and what it means. Values live in `conf/`.

Standard library only: this module is read before anything heavy is imported. Fields have no default of their own (the YAML
files are the one home of values); `Annotated[...]` carries the range that `lexalign.config.parsing` checks.
"""

from lexalign.config.schema.cache import Cache
from lexalign.config.schema.data import Columns, Data
from lexalign.config.schema.evaluate import Evaluate, Judge
from lexalign.config.schema.experiment import Experiment
from lexalign.config.schema.hardware import Hardware
from lexalign.config.schema.methods import (
    Condition,
    CpoMethod,
    DpoMethod,
    FlowMethod,
    GdpoMethod,
    GdpoRlMethod,
    GrpoMethod,
    IpoMethod,
    KtoMethod,
    ListedReward,
    Method,
    Needs,
    OrpoMethod,
    RewardMethod,
    SftMethod,
    SimpoMethod,
    SoftMethod,
)
from lexalign.config.schema.model import Adapter, Model
from lexalign.config.schema.stages import Chat, Download, Export, Stage
from lexalign.config.schema.sweep import Sweep
from lexalign.config.schema.tracking import Tracking
from lexalign.config.schema.train import Preflight, Train

__all__ = [
    "Adapter",
    "Cache",
    "Chat",
    "Columns",
    "Condition",
    "CpoMethod",
    "Data",
    "Download",
    "DpoMethod",
    "Evaluate",
    "Experiment",
    "Export",
    "FlowMethod",
    "GdpoMethod",
    "GdpoRlMethod",
    "GrpoMethod",
    "Hardware",
    "IpoMethod",
    "Judge",
    "KtoMethod",
    "ListedReward",
    "Method",
    "Model",
    "Needs",
    "OrpoMethod",
    "Preflight",
    "RewardMethod",
    "SftMethod",
    "SimpoMethod",
    "SoftMethod",
    "Stage",
    "Sweep",
    "Tracking",
    "Train",
]
