"""Check whether a model's code is the same as known code. Many model families of transformers share the code of their layers."""

import inspect
import types
from collections.abc import Callable
from typing import Any


def is_same_code(function: Callable[..., Any], known: Callable[..., Any]) -> bool:
    """Whether two functions have the same instructions. Their docstrings and the values of their globals may differ."""
    return _instructions(function) == _instructions(known)


def _instructions(function: Callable[..., Any]) -> tuple[Any, ...]:
    code = inspect.unwrap(function).__code__
    constants = [value for value in code.co_consts if value != function.__doc__]
    return code.co_code, code.co_names, code.co_varnames, code.co_freevars, constants


def replace_globals(function: Callable[..., Any], **other: Any) -> Callable[..., Any]:
    """A copy of a function that reads other values for some globals. The module of the function does not change."""
    assert isinstance(function, types.FunctionType)
    new_function = types.FunctionType(
        function.__code__, {**function.__globals__, **other}, function.__name__, function.__defaults__, function.__closure__
    )
    new_function.__kwdefaults__ = function.__kwdefaults__
    return new_function
