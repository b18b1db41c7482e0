"""Gives functions keywords that are the options of a run."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from densespec.network.fields import described
from densespec.training.options import RunOptions

P = ParamSpec("P")
T = TypeVar("T")


def _taking(
    options: Callable[P, RunOptions],
) -> Callable[[Callable[[dict[str, Any]], T]], Callable[P, T]]:
    """Give functions the parameters of ``options``, as static checkers see them too."""
    signature = inspect.signature(options)

    def decorate(function: Callable[[dict[str, Any]], T]) -> Callable[P, T]:
        @functools.wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> T:
            given = signature.bind(*args, **kwargs).arguments
            return function({name: value for name, value in given.items() if value is not None})

        returned = inspect.signature(function).return_annotation
        told = (function.__doc__ or "").replace(
            "{options}", described(dataclasses.fields(RunOptions))
        )
        called.__doc__ = told
        called.__signature__ = signature.replace(return_annotation=returned)  # type: ignore[attr-defined]
        return called

    return decorate


takes_options = _taking(RunOptions)
"""Decorates a function of the options that were said, by name: it then takes them as keywords.

None means that nothing was said. So the settings of a resumed run can be told from the defaults of
a new one.
"""
