"""Kinds of values that a setting may have: each reads a value or refuses it with one message, and bounds what it reads.

The same kinds read keyword arguments, hyperparameters and the metadata of weight files.
"""

from __future__ import annotations

import math
import numbers
import operator
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from effdet_model.errors import InputError, shown, unknown_name


class FieldType(Protocol):
    """What a value must be.

    Attributes:
        expected: in words, for messages.
    """

    @property
    def expected(self) -> str: ...

    def read(self, value: Any, where: str) -> Any:
        """The value as the config holds it; raises InputError, which begins with `where`, for any other."""


def wrong_value(where: str, expected: str, value: Any) -> InputError:
    """The one form of message for a value that is not what it must be."""
    return InputError(f"{where}: expected {expected}, found {shown(value)}; correct it or leave it out.")


@dataclass(frozen=True)
class Plain:
    """A value that `convert` takes as it is or changes; ValueError and TypeError refuse it."""

    expected: str
    convert: Callable[[Any], Any]

    def read(self, value: Any, where: str) -> Any:
        try:
            return self.convert(value)
        except (ValueError, TypeError, OverflowError):
            raise wrong_value(where, self.expected, value) from None


@dataclass(frozen=True)
class Named:
    """One of a closed set of names; a misspelt one is told its nearest."""

    names: Collection[str]

    @property
    def expected(self) -> str:
        return f"a name such as {', '.join(list(self.names)[:3])}"

    def read(self, value: Any, where: str) -> str:
        if not isinstance(value, str):
            raise wrong_value(where, self.expected, value)
        if value not in self.names:
            raise unknown_name(where, value, self.names)
        return value


@dataclass(frozen=True)
class Nullable:
    """Another kind, or None."""

    kind: FieldType

    @property
    def expected(self) -> str:
        return f"{self.kind.expected}, or null"

    def read(self, value: Any, where: str) -> Any:
        if value is None:
            return None
        kind = Plain(self.expected, self.kind.convert) if isinstance(self.kind, Plain) else self.kind
        return kind.read(value, where)


@dataclass(frozen=True)
class Keys:
    """A mapping with some of the named keys, each of its own kind."""

    kinds: Mapping[str, FieldType]

    @property
    def expected(self) -> str:
        return f"a mapping with keys such as {', '.join(list(self.kinds)[:3])}"

    def read(self, value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise wrong_value(where, self.expected, value)
        for key in value:
            if key not in self.kinds:
                raise unknown_name(f"key of {where}", key, self.kinds)
        return {key: self.kinds[key].read(item, f"{where}.{key}") for key, item in value.items()}


@dataclass(frozen=True)
class Items:
    """A list of at most `most` values of one kind."""

    kind: FieldType
    most: int

    @property
    def expected(self) -> str:
        return f"a list of 1 to {self.most} entries, each {self.kind.expected}"

    def read(self, value: Any, where: str) -> tuple[Any, ...]:
        if not is_list(value) or not 1 <= len(value) <= self.most:
            raise wrong_value(where, self.expected, value)
        return tuple(self.kind.read(item, f"{where}[{place}]") for place, item in enumerate(value))


def is_list(value: Any) -> bool:
    """Whether a value is a list or tuple, or another sequence that is no text."""
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def as_whole(value: Any, low: int, high: int) -> int:
    """An int within the bounds; ValueError or TypeError for what is none (True and 512.0 are none)."""
    if isinstance(value, bool):
        raise TypeError
    number = operator.index(value)
    if not low <= number <= high:
        raise ValueError
    return number


def as_number(value: Any, low: float, high: float) -> float:
    """A finite number within the bounds, as int or float; ValueError or TypeError for what is none."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError
    as_float = float(value)
    if not low <= as_float <= high:  # also false for NaN
        raise ValueError
    return value if isinstance(value, (int, float)) else as_float


def whole(low: int, high: int) -> Plain:
    """A whole number within bounds."""
    return Plain(f"a whole number from {low} to {high}", lambda value: as_whole(value, low, high))


def number(low: float, high: float, above: bool = False) -> Plain:
    """A finite number within bounds, with `above` greater than `low`."""
    first = math.nextafter(low, math.inf) if above else low
    words = f"a number above {low:g}, at most {high:g}" if above else f"a number from {low:g} to {high:g}"
    return Plain(words, lambda value: as_number(value, first, high))


def positive(high: float) -> Plain:
    """A number above 0."""
    return number(0, high, above=True)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


flag = Plain("true or false", _flag)


def one_of(choices: Collection[str]) -> Plain:
    """One of some words."""

    def convert(value: Any) -> str:
        if not isinstance(value, str) or value not in choices:
            raise ValueError
        return value

    return Plain(f"one of {', '.join(choice or repr('') for choice in choices)}", convert)


def identifier(expected: str, most: int = 100, pattern: str = r"[A-Za-z0-9_]*") -> Plain:
    """A name of letters, digits and underscores: no path, no address."""

    def convert(value: Any) -> str:
        if not isinstance(value, str) or len(value) > most or not re.fullmatch(pattern, value):
            raise ValueError
        return value

    return Plain(expected, convert)


def one_or_list(single: Plain, most: int, plural: str) -> Plain:
    """One value, or a list of at most `most` of them; a list becomes a tuple."""

    def convert(value: Any) -> Any:
        if not is_list(value):
            return single.convert(value)
        if not 1 <= len(value) <= most:
            raise ValueError
        return tuple(single.convert(item) for item in value)

    return Plain(plural, convert)
