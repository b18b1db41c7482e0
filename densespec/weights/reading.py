"""Defines what users may say of how weights are read, if the weights do not tell enough.

The fields here declare it once. The keywords of functions and the flags of commands that read
weights follow from them.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, TypeVar

from densespec.network.catalogue import SpecLike
from densespec.network.fields import (
    Choice,
    Instance,
    Integer,
    OrNone,
    Record,
    Text,
    constrained,
    described,
    stated,
)
from densespec.network.spec import DenseNetSpec

FITTED = ("in_channels", "spatial_dims")
"""Weights of another network are adapted to these fields of a spec."""

F = TypeVar("F", bound=Callable[..., Any])


class SpecFields:
    """Allows fields of a spec by name, or as a text such as ``norm=group,norm_groups=8``."""

    allowed = "fields of a spec with values that they may have, such as activation=elu"

    def parse(self, value: Any) -> tuple[tuple[str, Any], ...]:
        table = _table_of(value) if isinstance(value, str) else dict(value)
        checked = DenseNetSpec(blocks=(1,), growth_rate=1).replace(**table)
        return tuple((name, getattr(checked, name)) for name in sorted(table))

    def schema(self) -> dict[str, Any]:
        return {"type": "object"}


class LayerNames:
    """Allows names of layers, or a text of them with commas between."""

    allowed = "names of layers, such as aux"

    def parse(self, value: Any) -> tuple[str, ...]:
        names = value.split(",") if isinstance(value, str) else list(value)
        found = tuple(name.strip() for name in names)
        if not all(found) or not found:
            raise ValueError("a name is empty")
        return found

    def schema(self) -> dict[str, Any]:
        return {"type": "array", "items": {"type": "string"}}


def _table_of(text: str) -> dict[str, Any]:
    """Parse the names and values of a text. A value that is no JSON is a text itself."""
    table = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        try:
            table[name.strip()] = json.loads(value)
        except ValueError:
            table[name.strip()] = value.strip()
    return table


@dataclass(frozen=True, kw_only=True)
class InterpretingOptions(Record):
    """Holds what a user says of arrays of any network: where they are, and whose names they are."""

    NOUN: ClassVar[str] = "set of options"

    layout: str | None = stated(
        OrNone(Text()),
        "the layout whose names the arrays have, such as torchvision; order takes arrays with "
        "names of no layout in their order; found by inspection by default",
        default=None,
        flag="--from",
        metavar="LAYOUT",
    )
    key: str | None = stated(
        OrNone(Text()),
        "where a PyTorch file keeps them, such as state_dict_ema; keys within keys are joined by "
        "dots; in checkpoints of our training, average for the averages; without it, they are "
        "searched for",
        default=None,
        metavar="KEY",
    )
    prefix: str | None = stated(
        OrNone(Text()),
        "the text that the names of the wanted arrays, or of their layers in a Keras model, start "
        "with, such as encoder.; all arrays by default",
        default=None,
        metavar="PREFIX",
    )
    without: tuple[str, ...] | None = stated(
        OrNone(LayerNames()),
        "the names of layers that are no part of the network, such as another head; several are "
        "joined by commas",
        default=None,
        metavar="LAYER",
    )
    head_activation: Literal["relu", "none"] | None = stated(
        OrNone(Choice(("relu", "none"))),
        "the activation between the linear layers of a head, if their names do not tell; a ReLU is "
        "assumed by default",
        default=None,
    )

    def said(self) -> dict[str, Any]:
        """Return what was said, by name."""
        fields = (field.name for field in dataclasses.fields(self))
        return {name: value for name in fields if (value := getattr(self, name)) is not None}


@dataclass(frozen=True, kw_only=True)
class ReadingOptions(InterpretingOptions):
    """Holds what a user says of weights that are read. None means that nothing was said.

    Raises:
        SpecError: A value is not allowed; the message names the option.
    """

    spec: SpecLike | None = stated(
        OrNone(
            Instance(
                "a variant's name, a spec, or the path of a spec file",
                (str, os.PathLike, DenseNetSpec),
            )
        ),
        "the network of the arrays, except for classes and channels; worked out by default",
        default=None,
        metavar="SPEC",
    )
    assume: tuple[tuple[str, Any], ...] | None = stated(
        OrNone(SpecFields()),
        "fields of the spec that no array tells, as activation=elu; several are joined by commas",
        default=None,
        flag="--set",
        metavar="FIELD=VALUE",
    )
    in_channels: int | None = constrained(
        "S5",
        OrNone(Integer(1)),
        "the number of channels that the network will take; the weights of its first convolution "
        "are adapted to it: summed for one channel, repeated and scaled for more",
        default=None,
        metavar="N",
    )
    spatial_dims: int | None = constrained(
        "S7",
        OrNone(Integer(1, 3)),
        "the number of spatial dimensions that the network will have; the kernels of its "
        "convolutions are adapted to it: repeated along new axes and divided by the extent, or "
        "summed over axes",
        default=None,
        metavar="N",
    )

    def of_network(self) -> dict[str, Any]:
        """Return what was said of the network that is wanted: the fields of its spec, by name."""
        return {name: value for name, value in self.said().items() if name in FITTED}

    def otherwise(self, **values: Any) -> Self:
        """Say what is not said yet."""
        return self.replace(**(values | self.said()))

    @classmethod
    def taken(cls, keywords: Mapping[str, Any]) -> tuple[Self, dict[str, Any]]:
        """Split keywords of a function into these options and the others."""
        own = {field.name for field in dataclasses.fields(cls)}
        others = {name: value for name, value in keywords.items() if name not in own}
        return cls(**{name: keywords[name] for name in keywords if name in own}), others


AS_THEY_ARE = ReadingOptions()
"""These options say nothing, so that weights are read as they are."""


def takes_options_of(record: type[InterpretingOptions]) -> Callable[[F], F]:
    """Show the options that functions take as ``**reading`` in their signatures and docstrings.

    Those that a function has as parameters of its own are left alone.
    """

    def decorate(function: F) -> F:
        signature = inspect.signature(function)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        rest = [p for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD]
        names = {parameter.name for parameter in own}
        fields = [field for field in dataclasses.fields(record) if field.name not in names]
        added = [
            inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=None)
            for field in fields
        ]
        kept = [parameter for parameter in rest if parameter.name != "reading"]
        function.__signature__ = signature.replace(parameters=[*own, *added, *kept])  # type: ignore[attr-defined]
        function.__doc__ = (function.__doc__ or "").replace("{reading}", described(fields))
        return function

    return decorate


takes_reading_options = takes_options_of(ReadingOptions)
