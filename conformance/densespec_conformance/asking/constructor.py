"""Constructors of networks are given as text: ``torchvision.models:densenet121``, with arguments or
without.

The text is parsed and never evaluated: arguments are literals.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from densespec.errors import DensespecError, shown

ENGINES = ("tensorflow", "torch", "jax")


class ConstructorError(DensespecError):
    """A constructor can't be understood, found or called; the message says which, and what to
    do."""


@dataclass(frozen=True)
class Constructor:
    """Describes a callable that makes a network, and what it is called with.

    Attributes:
        text: The constructor as it was typed.
        engine: The engine of Keras on which it runs; None leaves the choice to ``KERAS_BACKEND``.
    """

    text: str
    module: str
    attribute: str
    arguments: tuple[Any, ...] = ()
    keywords: Mapping[str, Any] = field(default_factory=dict)
    engine: str | None = None

    @property
    def has_arguments(self) -> bool:
        return bool(self.arguments or self.keywords)

    @property
    def network(self) -> str:
        """Return the network's name: the attribute, or the name in a registry of models."""
        by_name = self.attribute in {short.function for short in SHORT_FORMS.values()}
        return str(self.arguments[0]) if by_name and self.arguments else self.attribute


@dataclass(frozen=True)
class _Short:
    """Says what ``package:NAME`` stands for: a module's attribute, or a function of the name."""

    module: str
    function: str | None = None


SHORT_FORMS = {
    "timm": _Short("timm", "create_model"),
    "torchvision": _Short("torchvision.models"),
    "monai": _Short("monai.networks.nets"),
    "keras_hub": _Short("keras_hub.models"),
}

FORM = re.compile(
    r"(?P<module>[\w.]+):(?P<name>[\w.]+)(?P<call>\(.*\))?(?:@(?P<engine>\w+))?", re.S
)


def parse(text: str) -> Constructor:
    """Read a constructor from its text: ``module:name(arguments)@engine``, the last two optional.

    Raises:
        ConstructorError: The text has another form, or an argument is no literal.
    """
    match = FORM.fullmatch(text.strip())
    if match is None:
        raise ConstructorError(
            f"{shown(text)} is not of the form 'module:callable', such as "
            "'torchvision.models:densenet121' or 'my_package.nets:make(width=64)'"
        )
    module, name, engine = match["module"], match["name"], match["engine"]
    if not all(part.isidentifier() for part in (*module.split("."), *name.split("."))):
        raise ConstructorError(f"{shown(text)}: {module}:{name} is no name in Python")
    if engine is not None and engine not in ENGINES:
        raise ConstructorError(
            f"{text}: no engine {engine!r} of Keras; known: {', '.join(ENGINES)}"
        )
    arguments, keywords = _literals(text, match["call"] or "()")
    return _expanded(Constructor(text, module, name, arguments, keywords, engine))


def is_short(text: str) -> bool:
    """Tell whether a target is in short form, as no backend is."""
    return text.partition(":")[0] in SHORT_FORMS


def _expanded(found: Constructor) -> Constructor:
    """Return the constructor that a short form stands for."""
    short = SHORT_FORMS.get(found.module)
    if short is None or found.attribute == short.function:
        return found
    if short.function is None:
        return replace(found, module=short.module)
    arguments = (found.attribute, *found.arguments)
    return replace(found, module=short.module, attribute=short.function, arguments=arguments)


def _literals(text: str, call: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    try:
        parsed = ast.parse(f"f{call}", mode="eval").body
    except (SyntaxError, ValueError) as error:
        raise ConstructorError(f"{shown(text)}: its arguments can't be read: {error}") from error
    if not isinstance(parsed, ast.Call) or not isinstance(parsed.func, ast.Name):
        raise ConstructorError(f"{shown(text)}: more than one call")
    for keyword in parsed.keywords:
        if keyword.arg is None:
            raise ConstructorError(f"{shown(text)}: write ** arguments out")
    return (
        tuple(_literal(text, value) for value in parsed.args),
        {keyword.arg or "": _literal(text, keyword.value) for keyword in parsed.keywords},
    )


def _literal(text: str, value: ast.expr) -> Any:
    try:
        return ast.literal_eval(value)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        raise ConstructorError(
            f"{shown(text)}: the argument {shown(ast.unparse(value))} is no literal: numbers, "
            "texts, tuples, lists, dicts, True, False and None are; for anything else write a "
            "function that makes the network, and give that"
        ) from error
