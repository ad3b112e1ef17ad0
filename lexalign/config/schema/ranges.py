"""Ranges that several settings share."""

from typing import Annotated

from lexalign.config.parsing import Range

Positive = Range(above=0)
NotNegative = Range(least=0)
Count = Annotated[int, Range(least=1)]
Share = Annotated[float, Range(above=0, below=1)]
AnyShare = Annotated[float, Range(least=0, most=1)]
