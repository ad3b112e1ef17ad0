"""Every setting of an experiment: its type, its range and what it means. Values live in `conf/`.

Standard library only: this module is read before anything heavy is imported. Fields have no default of their own (the YAML
files are the one home of values); `Annotated[...]` carries the range that `lexalign.parse` checks.
"""

from lexalign.schema.data import Columns, Data
from lexalign.schema.evaluate import Evaluate, Judge
from lexalign.schema.experiment import Experiment
from lexalign.schema.hardware import Hardware
from lexalign.schema.keeping import Cache, Sweep, Tracking
from lexalign.schema.methods import (
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
from lexalign.schema.model import Adapter, Model
from lexalign.schema.stages import Chat, Download, Export, Stage
from lexalign.schema.train import Preflight, Train

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
