"""Kinds of value a record may hold: each checks a value and describes itself as JSON Schema.

A kind is written beside the field it belongs to, so the check, the schema, the error message
and the documentation of a field can't drift apart.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from densespec.errors import SpecError


class Kind(Protocol):
    """What a field may hold."""

    @property
    def allowed(self) -> str:
        """The allowed values in words, for error messages."""
        ...

    def parse(self, value: Any) -> Any:
        """Return ``value`` in its one normal form, or raise ``TypeError`` or ``ValueError``."""
        ...

    def schema(self) -> dict[str, Any]:
        """The same rule as JSON Schema."""
        ...


def _reject_unless(condition: bool) -> None:
    if not condition:
        raise ValueError


def _integer(value: Any) -> int:
    _reject_unless(not isinstance(value, bool))
    return operator.index(value)


@dataclass(frozen=True)
class Integer:
    minimum: int
    maximum: int | None = None

    @property
    def allowed(self) -> str:
        upper = "" if self.maximum is None else f" and at most {self.maximum}"
        return f"an integer of at least {self.minimum}{upper}"

    def parse(self, value: Any) -> int:
        number = _integer(value)
        _reject_unless(self.minimum <= number and (self.maximum is None or number <= self.maximum))
        return number

    def schema(self) -> dict[str, Any]:
        upper = {} if self.maximum is None else {"maximum": self.maximum}
        return {"type": "integer", "minimum": self.minimum} | upper


@dataclass(frozen=True)
class Integers:
    """A non-empty sequence of integers."""

    minimum: int

    @property
    def allowed(self) -> str:
        return f"a non-empty list of integers, each at least {self.minimum}"

    def parse(self, value: Any) -> tuple[int, ...]:
        _reject_unless(not isinstance(value, str | bytes | Mapping))
        numbers = tuple(_integer(item) for item in value)
        _reject_unless(bool(numbers) and min(numbers) >= self.minimum)
        return numbers

    def schema(self) -> dict[str, Any]:
        return {
            "type": "array",
            "minItems": 1,
            "items": {"type": "integer", "minimum": self.minimum},
        }


@dataclass(frozen=True)
class Fractions:
    """Ascending numbers between 0 and 1."""

    allowed = "an ascending list of numbers in (0, 1)"

    def parse(self, value: Any) -> tuple[float, ...]:
        _reject_unless(not isinstance(value, str | bytes | Mapping))
        inside = Interval(0, 1, open_lower=True, open_upper=True)
        numbers = tuple(inside.parse(item) for item in value)
        _reject_unless(all(a < b for a, b in itertools.pairwise(numbers)))
        return numbers

    def schema(self) -> dict[str, Any]:
        inside = Interval(0, 1, open_lower=True, open_upper=True)
        return {"type": "array", "items": inside.schema()}


@dataclass(frozen=True)
class Interval:
    """A finite real number between two bounds, each inclusive unless said otherwise."""

    lower: float
    upper: float
    open_lower: bool = False
    open_upper: bool = False

    @property
    def allowed(self) -> str:
        left, right = "(" if self.open_lower else "[", ")" if self.open_upper else "]"
        return f"a number in {left}{self.lower:g}, {self.upper:g}{right}"

    def parse(self, value: Any) -> float:
        _reject_unless(not isinstance(value, bool | str | bytes))
        number = float(value)
        _reject_unless(math.isfinite(number))
        _reject_unless(self.lower < number or (number == self.lower and not self.open_lower))
        _reject_unless(number < self.upper or (number == self.upper and not self.open_upper))
        return number

    def schema(self) -> dict[str, Any]:
        lower = "exclusiveMinimum" if self.open_lower else "minimum"
        upper = "exclusiveMaximum" if self.open_upper else "maximum"
        return {"type": "number", lower: self.lower, upper: self.upper}


@dataclass(frozen=True)
class Choice:
    options: tuple[str, ...]

    @property
    def allowed(self) -> str:
        return " or ".join(repr(option) for option in self.options)

    def parse(self, value: Any) -> str:
        _reject_unless(isinstance(value, str) and value in self.options)
        return str(value)

    def schema(self) -> dict[str, Any]:
        return {"enum": list(self.options)}


@dataclass(frozen=True)
class Flag:
    allowed = "true or false"

    def parse(self, value: Any) -> bool:
        _reject_unless(isinstance(value, bool))
        return bool(value)

    def schema(self) -> dict[str, Any]:
        return {"type": "boolean"}


@dataclass(frozen=True)
class Either:
    """The first of two kinds that accepts the value."""

    first: Kind
    second: Kind

    @property
    def allowed(self) -> str:
        return f"{self.first.allowed}, or {self.second.allowed}"

    def parse(self, value: Any) -> Any:
        try:
            return self.first.parse(value)
        except (TypeError, ValueError):
            return self.second.parse(value)

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [self.first.schema(), self.second.schema()]}


@dataclass(frozen=True)
class Optional:
    """A kind, or None. TOML has no null, and an absent key says None: let that be the default."""

    kind: Kind

    @property
    def allowed(self) -> str:
        return f"{self.kind.allowed}, or none"

    def parse(self, value: Any) -> Any:
        return None if value is None else self.kind.parse(value)

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [self.kind.schema(), {"type": "null"}]}


def constrained(
    number: str, kind: Kind, meaning: str, *, default: Any = dataclasses.MISSING
) -> Any:
    """A dataclass field that obeys constraint ``number``: it holds a value of ``kind``."""
    return dataclasses.field(
        default=default, metadata={"constraint": number, "kind": kind, "meaning": meaning}
    )


def parse_fields(record: Any) -> None:
    """Check every constrained field of a frozen dataclass and put its normal form in place.

    Raises:
        SpecError: naming the field, its value, what is allowed, and the constraint's number.
    """
    for field in dataclasses.fields(record):
        kind: Kind = field.metadata["kind"]
        value = getattr(record, field.name)
        try:
            parsed = kind.parse(value)
        except (TypeError, ValueError, OverflowError):
            raise SpecError(field.metadata["constraint"], field.name, value, kind.allowed) from None
        object.__setattr__(record, field.name, parsed)
