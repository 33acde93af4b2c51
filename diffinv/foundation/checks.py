"""Settings that cannot be honoured are refused in one sentence: the culprit, then the remedy."""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints


def check_fields(
    settings: Any,
    *,
    counts: Collection[str] = (),
    at_least: Mapping[str, float] | None = None,
    above_zero: Collection[str] = (),
    below_one: Collection[str] = (),
    between: Mapping[str, tuple[float, float]] | None = None,
) -> None:
    """ValueError unless the fields named are finite numbers in their ranges, or None where they may be.

    `counts` are at least 1; `below_one` is from 0 to below 1; `at_least` and `between` include their bounds.
    Every field annotated as a Literal has to be one of its choices, without being named.
    """
    hints, ranges = get_type_hints(type(settings)), between or {}
    for name, kind in hints.items():
        if get_origin(kind) is Literal:
            check_choice(name, getattr(settings, name), kind)
    least = {**dict.fromkeys(counts, 1), **(at_least or {})}
    for name, value in _given(settings, least, hints):
        if not least[name] <= value < math.inf:
            raise ValueError(f"{name} is {value}: choose at least {least[name]}.")
    for name, value in _given(settings, above_zero, hints):
        if not 0 < value < math.inf:
            example = getattr(type(settings), name)  # the field's default
            raise ValueError(f"{name} is {value}: choose a number above 0, such as {example}.")
    for name, value in _given(settings, below_one, hints):
        if not 0 <= value < 1:
            raise ValueError(f"{name} is {value}: choose a number from 0 to below 1.")
    for name, value in _given(settings, ranges, hints):
        low, high = ranges[name]
        if not low <= value <= high:
            raise ValueError(f"{name} is {value}: choose a number from {low} to {high}.")


def check_choice(name: str, value: Any, choices: Any) -> None:
    """ValueError that lists the choices, a Literal, unless `value` is one of them."""
    if value not in get_args(choices):
        raise ValueError(f"{name} is {value!r}: choose one of {', '.join(get_args(choices))}.")


def check_names(given: Iterable[str], known: Collection[str], whose: str) -> None:
    """ValueError that lists a notebook's parameters if one of those given is none of them."""
    if unknown := sorted(set(given) - set(known)):
        names = ", ".join(known) or 'none: tag one cell "parameters", and assign them there'
        raise ValueError(f"{whose} has no parameter {unknown[0]!r}: it takes {names}.")


def _given(settings: Any, names: Collection[str], hints: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name in names:
        if getattr(settings, name) is not None:
            yield name, getattr(settings, name)
        elif type(None) not in get_args(hints[name]):
            raise ValueError(f"{name} is None: choose a number.")
