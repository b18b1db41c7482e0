"""Makes a command's flags from the fields of a record, which say what they hold and mean."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from typing import Any, TypeVar

import click

from densespec.network.fields import (
    Choice,
    Choices,
    Domain,
    Either,
    Flag,
    Integer,
    Integers,
    OrNone,
    Record,
)
from densespec.weights.reading import LayerNames, SpecFields

F = TypeVar("F", bound=Callable[..., Any])
Parse = Callable[[click.Context, click.Parameter, Any], Any]


def options_of(
    record: type[Record],
    *,
    leave_out: Collection[str] = (),
    multiple: bool = False,
    **parsers: Parse,
) -> Callable[[F], F]:
    """Return a command a flag for every field of a record; what is not said is None.

    A field may name its ``flag`` and its ``metavar``; otherwise the flag is its name.

    Args:
        leave_out: fields that have no flag of their own.
        multiple: whether each may be given again; then what is said are tuples.
        parsers: callbacks that read a field's text, by the field's name.
    """

    def decorate(command: F) -> F:
        for field in reversed(dataclasses.fields(record)):  # type: ignore[arg-type]
            if field.name not in leave_out:
                command = _option(field, parsers.get(field.name), multiple)(command)
        return command

    return decorate


def _option(field: dataclasses.Field[Any], parse: Parse | None, multiple: bool) -> Callable[[F], F]:
    about = field.metadata
    flag = about.get("flag") or f"--{field.name.replace('_', '-')}"
    attributes = {"callback": parse} if parse else _attributes(about["domain"])
    if multiple:
        attributes = {n: a for n, a in attributes.items() if n != "callback"} | {"multiple": True}
    return click.option(
        flag,
        field.name,
        default=None,
        metavar=about.get("metavar"),
        help=_help(field),
        **attributes,
    )


def _help(field: dataclasses.Field[Any]) -> str:
    meaning, default = field.metadata["meaning"], field.default
    shown = isinstance(default, str | int) and not isinstance(default, bool)
    text = f"{meaning[0].upper()}{meaning[1:]}."
    return f"{text}  [default: {default}]" if shown else text


def _attributes(domain: Domain) -> dict[str, Any]:
    """Say how click reads a value of a domain."""
    match domain:
        case OrNone():
            return _attributes(domain.domain)
        case Integer():
            return {"type": click.IntRange(domain.minimum, domain.maximum)}
        case Integers():
            whole = click.IntRange(domain.minimum)
            return {"type": whole, "multiple": True, "callback": _none_if_empty}
        case Choices():
            each = click.Choice(domain.options)
            return {"type": each, "multiple": True, "callback": _none_if_empty}
        case Choice():
            return {"type": click.Choice(domain.options)}
        case SpecFields() | LayerNames():
            return {"multiple": True, "callback": _joined}
        case Flag() | Either(Flag(), _):
            return {"is_flag": True}
    return {}


def _joined(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    return ",".join(value) or None


def _none_if_empty(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    return value or None
