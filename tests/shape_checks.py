"""Enforces the shapes in the package's annotations while the tests run, and no other annotation.

Plain types stay unchecked: the package refuses senseless values with sentences of its own, which have tests.
"""

import functools
import types
import typing

from beartype import beartype
from jaxtyping import AbstractArray


def check_shapes(function):
    """The typechecker of jaxtyping's import hook: beartype on a copy with only the shapes."""
    if not isinstance(function, types.FunctionType):
        return function
    shaped = {name: hint for name, hint in function.__annotations__.items() if _has_shape(hint)}
    if not shaped:
        return function
    copy = types.FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__, copy.__annotations__, copy.__module__ = (
        function.__kwdefaults__,
        shaped,
        function.__module__,
    )
    copy.__qualname__ = function.__qualname__
    return functools.wraps(function)(beartype(copy))


def _has_shape(hint) -> bool:
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return True
    return any(_has_shape(part) for part in typing.get_args(hint))
