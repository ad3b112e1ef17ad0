"""Whether a model's own code is code we know: transformers writes most families' layers alike, and what is alike can be replaced alike."""

import inspect
import types
from collections.abc import Callable
from typing import Any


def is_same_code(function: Callable[..., Any], known: Callable[..., Any]) -> bool:
    """Whether two functions are the same to the instruction, but for their documentation and the globals that their names stand for."""
    return _instructions(function) == _instructions(known)


def _instructions(function: Callable[..., Any]) -> tuple[Any, ...]:
    code = inspect.unwrap(function).__code__
    undocumented = [value for value in code.co_consts if value != function.__doc__]
    return code.co_code, code.co_names, code.co_varnames, code.co_freevars, undocumented


def replace_globals(function: Callable[..., Any], **other: Any) -> Callable[..., Any]:
    """A function that is another one but for some of the globals it reads; the module they stand in is left as it is."""
    assert isinstance(function, types.FunctionType)
    found = types.FunctionType(
        function.__code__, {**function.__globals__, **other}, function.__name__, function.__defaults__, function.__closure__
    )
    found.__kwdefaults__ = function.__kwdefaults__
    return found
