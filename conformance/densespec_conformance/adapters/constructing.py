"""A constructor is called: its module is imported, and the network made without a download."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import inspect
import os
import re
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from densespec.network.spec import DenseNetSpec
from densespec_conformance.asking.constructor import ENGINES, Constructor, ConstructorError

COMPOSED = {
    "keras_hub.models:DenseNetImageClassifier": "densespec_conformance.adapters.composed",
}
"""Maps constructors that take another network to modules with a constructor that makes both."""

WITHOUT_DOWNLOAD: Mapping[str, Any] = {"weights": None, "pretrained": False}
LOGITS: Mapping[str, Any] = {"classifier_activation": None}
"""Parameters with these names get these values unless the text gives others."""

FROM_SPEC: Mapping[str, Callable[[DenseNetSpec], Any]] = {
    "spatial_dims": lambda spec: spec.spatial_dims,
    "in_channels": lambda spec: spec.in_channels,
    "out_channels": lambda spec: spec.classes,
    "num_classes": lambda spec: spec.classes,
    "classes": lambda spec: spec.classes,
    "stackwise_num_repeats": lambda spec: list(spec.blocks),
}
"""Parameters with these names get these values from the spec if they have no default."""

IMAGE_SHAPE = ("input_shape", "image_shape")
"""Keras's constructors have these names for parameters that take sizes and channels."""


def choose_engine(constructor: Constructor) -> None:
    """Choose Keras's engine before anything imports Keras.

    It is the target's own, or else the one in ``KERAS_BACKEND``, or else the first installed one.
    """
    installed = (name for name in ENGINES if importlib.util.find_spec(name) is not None)
    if constructor.engine is not None:
        os.environ["KERAS_BACKEND"] = constructor.engine
    elif "KERAS_BACKEND" not in os.environ and (first := next(installed, None)):
        os.environ["KERAS_BACKEND"] = first


def load(constructor: Constructor) -> Any:
    """Import what the text names.

    Raises:
        ConstructorError: There is no such thing, or its import fails.
    """
    found = _imported(constructor)
    for part in constructor.attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            near = [name for name in vars(found) if name.lower() == part.lower()]
            hint = f". Did you mean {near[0]}?" if near else ""
            raise ConstructorError(
                f"{constructor.text}: {constructor.module} has no {part!r}{hint}"
            ) from error
    return found


def _imported(constructor: Constructor) -> Any:
    composed = COMPOSED.get(f"{constructor.module}:{constructor.attribute}")
    given = "backbone" in constructor.keywords
    try:
        return import_module(constructor.module if composed is None or given else composed)
    except Exception as error:
        raise ConstructorError(
            f"{constructor.text}: {constructor.module} can't be imported: "
            f"{type(error).__name__}: {error}"
        ) from error


_declared: list[Any] = []


def import_module(name: str) -> Any:
    """Import a module.

    A torchvision that was made for another build of PyTorch, such as a CPU one, misses operators of
    its own, which no network needs: they are declared.
    """
    for _ in range(10):
        try:
            return importlib.import_module(name)
        except RuntimeError as error:
            missing = re.search(r"operator (\w+)::(\w+) does not exist", str(error))
            if missing is None or missing[1] != "torchvision":
                raise
            torch = importlib.import_module("torch")
            library = torch.library.Library("torchvision", "FRAGMENT")
            library.define(f"{missing[2]}(Tensor dets, Tensor scores, float threshold) -> Tensor")
            _declared.append(library)
    return importlib.import_module(name)


@dataclass(frozen=True)
class Made:
    """Holds a network that a constructor made, and the arguments that were added to the text's."""

    network: Any
    added: Mapping[str, Any]


def construct(
    constructor: Constructor, function: Any, spec: DenseNetSpec, size: tuple[int, ...]
) -> Made:
    """Call a constructor, without letting it load anything.

    Args:
        function: What :func:`load` gave.
        size: The spatial size of the input, for those that want to know it.

    Raises:
        ConstructorError: It is not callable, raises an error, or wants to download.
    """
    if not callable(function):
        raise ConstructorError(
            f"{constructor.text} is of type {type(function).__name__}: neither a backend nor a "
            "function or class that makes a network"
        )
    added = _additions(constructor, function, spec, size)
    with _offline() as hosts:
        try:
            streams = _streams(constructor, function)
            network = function(*constructor.arguments, **constructor.keywords, **added, **streams)
        except Exception as error:
            raise ConstructorError(_why(constructor, error, hosts, added)) from error
    return Made(network, added)


def _streams(constructor: Constructor, function: Any) -> dict[str, Any]:
    """Return the random streams that Flax's modules are made with, from seed 0."""
    nnx = sys.modules.get("flax.nnx")
    wanted = any(parameter.name == "rngs" for parameter in _free(constructor, function))
    return {"rngs": nnx.Rngs(0)} if nnx is not None and wanted else {}


def _free(constructor: Constructor, function: Any) -> list[inspect.Parameter]:
    """List the parameters that the text gives no value."""
    try:
        parameters = inspect.signature(_shown(function)).parameters
    except (TypeError, ValueError):
        return []
    return [
        parameter
        for parameter in list(parameters.values())[len(constructor.arguments) :]
        if parameter.name not in constructor.keywords
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]


def _shown(function: Any) -> Any:
    """Return what shows the parameters of a constructor. Classes of Flax's modules hide theirs."""
    nnx = sys.modules.get("flax.nnx")
    if nnx is not None and isinstance(function, type) and issubclass(function, nnx.Module):
        return functools.partial(function.__init__, None)  # type: ignore[misc]
    return function


def _additions(
    constructor: Constructor, function: Any, spec: DenseNetSpec, size: tuple[int, ...]
) -> dict[str, Any]:
    free = _free(constructor, function)
    always = {**WITHOUT_DOWNLOAD, **LOGITS}
    if "keras" in sys.modules:
        always |= dict.fromkeys(IMAGE_SHAPE, (*size, spec.in_channels))
    added = {p.name: always[p.name] for p in free if p.name in always}
    required = [p.name for p in free if p.default is p.empty and p.name in FROM_SPEC]
    return added | {name: FROM_SPEC[name](spec) for name in required}


def _why(
    constructor: Constructor, error: Exception, hosts: list[str], added: Mapping[str, Any]
) -> str:
    if hosts:
        return (
            f"{constructor.text} wants to download from {hosts[0]}: give it the argument with "
            "which it does not, and weights of your own with --weights"
        )
    given = f" (besides the text's own, it was given {_in_words(added)})" if added else ""
    return f"{constructor.text} raised {type(error).__name__}: {error}{given}"


def _in_words(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in arguments.items())


@contextlib.contextmanager
def _offline() -> Iterator[list[str]]:
    """Refuse to look hosts up for a while, and list those that were asked for."""
    hosts: list[str] = []
    before = socket.getaddrinfo

    def refuse(host: Any, *_: Any, **__: Any) -> Any:
        hosts.append(host.decode() if isinstance(host, bytes) else str(host))
        raise OSError(f"no connection to {hosts[-1]} while a network is made")

    socket.getaddrinfo = refuse
    try:
        yield hosts
    finally:
        socket.getaddrinfo = before
