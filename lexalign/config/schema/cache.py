"""What runs share below `store`."""

from dataclasses import dataclass
from typing import Annotated, Literal

from lexalign.config.parsing import TypedOnly
from lexalign.config.schema.ranges import Positive


@dataclass(frozen=True, kw_only=True)
class Cache:
    """What runs share below `store`: tokenised rows and the reference's log-probabilities."""

    action: Annotated[Literal["keep", "show", "clear"], TypedOnly("it can delete files")]
    """keep = use it; show and clear list or empty it instead of running."""
    max_gb: Annotated[float, Positive]
    """Gigabytes each of the two may take; what was longest unused goes first."""
