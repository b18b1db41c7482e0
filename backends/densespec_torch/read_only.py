"""Defines tensors that can only be read: a prepared network shows its arrays by them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

_OPERATORS = "add sub mul truediv floordiv mod pow and or xor lshift rshift"
_IN_PLACE = frozenset(
    ["__setitem__", "__set__", "__delete__", *(f"__i{name}__" for name in _OPERATORS.split())]
)
"""These functions write, besides those whose names end in an underscore."""


class ReadOnly(Tensor):
    """This is a tensor, or a view of it, that refuses whatever would change its values or settings.

    Copies are plain tensors, and so are pickled ones.
    """

    @classmethod
    def of(cls, tensor: Tensor, *, trainable: bool = False) -> Tensor:
        """Make one that shares a tensor's memory; it is a parameter if the tensor is.

        Tensors of other kinds, with which PyTorch traces, stay as they are.

        Args:
            trainable: Whether it says that it wants gradients.
        """
        plain = tensor.detach()
        if type(plain) is not Tensor:
            return tensor
        view = plain.as_subclass(cls)
        with torch._C.DisableTorchFunctionSubclass():
            view.requires_grad_(trainable)
        view.__dict__["_is_param"] = isinstance(tensor, torch.nn.Parameter)
        return view

    _base = None

    def _is_view(self) -> bool:
        """Say no: what it is a view of can be written."""
        return False

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if _writes(func, args, kwargs):
            raise RuntimeError(
                "this tensor belongs to a network that is prepared for inference and can't be "
                "changed: change the network of mode 'layers' (densespec.in_mode(model, 'layers') "
                "gives it), then call densespec.optimize again"
            )
        with torch._C.DisableTorchFunctionSubclass():
            return _guarded(func(*args, **kwargs), args)

    def __deepcopy__(self, memo: Any) -> Tensor:
        return _plain(self).clone()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _plain(self).__reduce_ex__(protocol)  # type: ignore[no-untyped-call]


def _plain(tensor: ReadOnly) -> Tensor:
    with torch._C.DisableTorchFunctionSubclass():
        return tensor.detach().as_subclass(Tensor)


def _writes(func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Say whether a function of PyTorch will write into a tensor that can only be read."""
    name = getattr(func, "__name__", "").partition(".")[0]
    in_place = name in _IN_PLACE or (name.endswith("_") and not name.endswith("__"))
    return _holds(kwargs.get("out")) or bool(in_place and args and _holds(args[0]))


def _holds(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(map(_holds, value))
    return isinstance(value, ReadOnly)


def _guarded(result: Any, args: tuple[Any, ...]) -> Any:
    """Guard those of a function's results that share memory with tensors that can only be read."""
    if isinstance(result, list | tuple) and type(result) in (list, tuple):
        return type(result)(_guarded(each, args) for each in result)
    if isinstance(result, np.ndarray):
        result.flags.writeable = False
    if isinstance(result, Tensor) and any(_shares(result, arg) for arg in args):
        return result.as_subclass(ReadOnly)
    return result


def _shares(result: Tensor, arg: Any) -> bool:
    if not isinstance(arg, ReadOnly):
        return False
    one, other = result.untyped_storage(), arg.untyped_storage()
    return one.data_ptr() == other.data_ptr() and one.nbytes() > 0
