"""Finds the state dict in the object of a PyTorch file, which may have wrappers or be a module."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from densespec.errors import shown
from densespec.weights.containers.base import MAX_DEPTH, MOST_TEXT, Refused
from densespec.weights.containers.torch_tensors import is_tensor
from densespec.weights.pickles.arrays import array_of
from densespec.weights.pickles.standins import Dict, Made, Pair, called, described, text_of
from densespec.weights.stated.torch_modules import ModuleFacts, Modules, facts

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "weights", "module", "params")
"""Training scripts keep the state dict under these keys."""

AVERAGED = (
    "state_dict_ema",
    "model_ema",
    "params_ema",
    "ema_state_dict",
    "model_ema_state_dict",
    "ema",
)
"""Training scripts keep averages of the state dict under these keys."""

DEEPEST = 4
"""At most this many wrappers within wrappers are opened."""

NAME = 100
"""An entry of a dict takes about this many bytes, without its name."""

DICTS = ("builtins.dict", "collections.OrderedDict", "collections.defaultdict")

RESAVE = (
    "Nothing in it was run. If you trust whoever made it, load it in the program that saved it and "
    "save only its weights: torch.save(model.state_dict(), 'weights.pth')"
)


@dataclass(frozen=True)
class FoundState:
    """Describes a state dict that was found.

    Attributes:
        value: its stand-in in the pickle.
        entries: its tensors and other values, by name.
        place: the keys under which it lies, joined by dots; empty if it is the whole file.
        left: the names of what lies beside it, with the keys above them.
        alike: those names in ``left`` that are state dicts with arrays of the same names.
        modules: the modules of a model that was saved whole, by path.
    """

    value: Any
    entries: Mapping[str, Any]
    place: str
    left: tuple[str, ...]
    alike: tuple[str, ...]
    modules: Modules


class StateSearch:
    """Searches a pickle's values, and looks at each of them once however often it is there."""

    def __init__(self) -> None:
        self._entries: dict[int, dict[str, Any]] = {}
        self._modules: dict[int, Module] = {}
        self._holding: dict[tuple[int, int], bool] = {}
        self._keys: dict[tuple[int, int], str | None] = {}
        self._names_left = MOST_TEXT

    def find(self, value: Any, key: str | None) -> FoundState:
        """Find the state dict in a value.

        Args:
            key: where it lies, as keys joined by dots; None for where it mostly does.

        Raises:
            Refused: there is none, or more than one.
        """
        path, beside = ([], {}) if key is None else self._follow(value, key)
        for part in path:
            value = self.entries(value)[part]
        deepest = len(path) + DEEPEST
        while found := self._choice(self._wrapped(value)):
            if len(path) == deepest:
                raise Refused(f"its state_dict lies too deep, below {'.'.join(path)}")
            beside |= self._beside(value, path, found)
            value = self.entries(value)[found]
            path.append(found)
        entries = self._checked(value)
        alike = [name for name, other in beside.items() if self._is_like(other, entries)]
        modules = self._facts(value) if is_module(value) else {}
        return FoundState(value, entries, ".".join(path), tuple(beside), tuple(alike), modules)

    def entries(self, value: Any) -> dict[str, Any]:
        """Return what a value holds by name; a module holds what its state dict would."""
        if id(value) not in self._entries:
            found = self._state_of(value) if is_module(value) else named_parts(value)
            self._entries[id(value)] = found
        return self._entries[id(value)]

    def _state_of(self, module: Any) -> dict[str, Any]:
        """Return what the ``state_dict`` of a module would be."""
        found: dict[str, Any] = {}
        for path, inner in self._walk(module):
            found |= self._prefixed(path, self._modules[id(inner)].state)
        return found

    def _facts(self, module: Any) -> dict[str, ModuleFacts]:
        return {
            path.removesuffix("."): facts(called(inner), _attributes(inner))
            for path, inner in self._walk(module)
        }

    def _walk(self, module: Any) -> Iterator[tuple[str, Any]]:
        """Yield a module and those within it, each with what stands before its names.

        Raises:
            Refused: they are nested deeper, or have more parts, than any network's.
        """
        rest = [("", module)]
        while rest:
            prefix, inner = rest.pop()
            if prefix.count(".") > MAX_DEPTH:
                raise Refused(f"its modules are nested deeper than {MAX_DEPTH}")
            if id(inner) not in self._modules:
                self._modules[id(inner)] = Module.of(inner)
            yield prefix, inner
            children = self._prefixed(prefix, self._modules[id(inner)].children)
            rest += [(f"{name}.", child) for name, child in reversed(children.items())]

    def _prefixed(self, prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
        self._names_left -= sum(NAME + len(prefix) + len(name) for name in values)
        if self._names_left < 0:
            raise Refused("its modules have more parts than any network; it is a trap")
        return {f"{prefix}{name}": value for name, value in values.items()}

    def _follow(self, value: Any, key: str) -> tuple[list[str], dict[str, Any]]:
        """Go where a key leads: give the keys on the way, and what lies beside them."""
        path: list[str] = []
        beside: dict[str, Any] = {}
        rest = key.strip(".")
        while rest:
            entries = self.entries(value)
            fitting = [name for name in entries if name and f"{rest}.".startswith(f"{name}.")]
            if not fitting:
                raise Refused(
                    f"there is nothing under the key {shown(key)}; there are {_listed(entries)}"
                )
            part = max(fitting, key=len)
            beside |= self._beside(value, path, part)
            path.append(part)
            value, rest = entries[part], rest.removeprefix(part).strip(".")
        return path, beside

    def _beside(self, value: Any, path: list[str], chosen: str) -> dict[str, Any]:
        others = self.entries(value).items()
        return {".".join([*path, key]): other for key, other in others if key != chosen}

    def _choice(self, found: list[str]) -> str | None:
        """Choose the key that is meant: not an average if what it averages is there."""
        plain = [key for key in found if key in WRAPPERS] or found
        if len(plain) > 1:
            raise Refused(
                f"it has a state_dict under each of {' and '.join(plain)}; choose one by its key "
                f"(--key {plain[0]})"
            )
        return plain[0] if plain else None

    def _wrapped(self, value: Any) -> list[str]:
        """Find the keys of a dict under which state dicts, or wrappers of them, lie."""
        if is_module(value):
            return []
        entries = self.entries(value)
        keys = [key for key in (*WRAPPERS, *AVERAGED) if key in entries]
        return [key for key in keys if self._holds_tensors(entries[key], DEEPEST)]

    def _holds_tensors(self, value: Any, depth: int) -> bool:
        at = (id(value), depth)
        if at not in self._holding:
            entries = self.entries(value) if depth else {}
            inner = [entries[key] for key in (*WRAPPERS, *AVERAGED) if key in entries]
            self._holding[at] = any(map(is_array, entries.values())) or any(
                self._holds_tensors(entry, depth - 1) for entry in inner
            )
        return self._holding[at]

    def _is_like(self, value: Any, entries: Mapping[str, Any]) -> bool:
        """Say whether a value is a state dict that has arrays of the same names."""
        common = self.entries(value).keys() & entries.keys()
        return any(is_array(self.entries(value)[name]) for name in common)

    def _checked(self, value: Any) -> dict[str, Any]:
        entries = self.entries(value)
        if not is_module(value) and pairs_of(value) is None:
            what = "a tensor" if is_array(value) else described(value)
            raise Refused(f"it should be a state_dict, but is {what}. {RESAVE}")
        for key, entry in pairs_of(value) or ():
            if text_of(key, "utf-8") is None and is_array(entry):
                raise Refused(
                    f"its state_dict has the key {described(key)}, but keys should be texts"
                )
        if entries and not any(map(is_array, entries.values())):
            raise Refused(self._without_tensors(value))
        return entries

    def _key_to_tensors(self, value: Any, depth: int) -> str | None:
        """Find keys, joined by dots, under which a dict of tensors lies, whatever they are."""
        at = (id(value), depth)
        if at not in self._keys:
            self._keys[at] = None
            entries = self.entries(value) if depth else {}
            for key, inner in entries.items():
                if any(map(is_array, self.entries(inner).values())):
                    self._keys[at] = key
                elif rest := self._key_to_tensors(inner, depth - 1):
                    self._keys[at] = f"{key}.{rest}"
                if self._keys[at]:
                    break
        return self._keys[at]

    def _without_tensors(self, value: Any) -> str:
        entries, key = self.entries(value), self._key_to_tensors(value, DEEPEST)
        choose = f"Choose one by its key (--key {shown(key)[1:-1]})" if key else RESAVE
        return (
            f"it should be a state_dict, or have one under {', '.join(WRAPPERS)}, but has "
            f"{_listed(entries)} and none of them is a tensor. {choose}"
        )


def _listed(entries: Mapping[str, Any]) -> str:
    return shown(list(entries))


def is_array(value: Any) -> bool:
    """Say whether a value stands for a tensor or for a numpy array."""
    return isinstance(value, Made) and (is_tensor(value) or array_of(value) is not None)


def pairs_of(value: Any) -> Sequence[Pair] | None:
    """Return the keys and values of a dict of any class, and None for other values."""
    match value:
        case Dict(pairs):
            return pairs
        case Made(arguments=(list() as items,)) if called(value) == "collections.OrderedDict":
            return [tuple(item) for item in items if isinstance(item, list) and len(item) == 2]
        case Made(pairs=pairs) if pairs or called(value) in DICTS:
            return pairs
    return None


def named_parts(value: Any) -> dict[str, Any]:
    """Return the values of a dict whose keys are texts, or the attributes of another object."""
    pairs = pairs_of(value)
    if pairs is None:
        return attributes_of(value)
    named = ((text_of(key, "utf-8"), part) for key, part in pairs)
    return {name: part for name, part in named if name is not None}


def attributes_of(value: Any) -> dict[str, Any]:
    """Return the attributes that an object would be given."""
    match value:
        case Made(state=Dict() as state) | Made(state=(Dict() as state, _)):
            return named_parts(state)
    return {}


# Modules


def is_module(value: Any) -> bool:
    """Say whether a value stands for a ``torch.nn.Module``."""
    match value:
        case Made(state=Dict(pairs)):
            return {"_modules", "_parameters", "_buffers"} <= {
                key for key, _ in pairs if isinstance(key, str)
            }
    return False


@dataclass(frozen=True)
class Module:
    """Describes a ``torch.nn.Module``.

    Attributes:
        state: its own entries of the state dict, by name.
        children: the modules within it, by name.
    """

    state: Mapping[str, Any]
    children: Mapping[str, Any]

    @classmethod
    def of(cls, value: Any) -> Module:
        """Read what stands in a pickle for a module."""
        attributes = attributes_of(value)
        left_out = _texts_in(attributes.get("_non_persistent_buffers_set"))
        kinds = [named_parts(attributes.get(kind)) for kind in ("_parameters", "_buffers")]
        own = {
            name: part
            for parts in kinds
            for name, part in parts.items()
            if part is not None and name not in left_out
        }
        modules = named_parts(attributes.get("_modules"))
        return cls(own, {name: part for name, part in modules.items() if is_module(part)})


def _attributes(module: Any) -> dict[str, Any]:
    """Return the attributes of a module, with None for empty dicts, such as of no hooks."""
    found = attributes_of(module).items()
    return {name: None if _is_empty(value) else value for name, value in found}


def _is_empty(value: Any) -> bool:
    pairs = pairs_of(value)
    return pairs is not None and not pairs


def _texts_in(value: Any) -> set[str]:
    """Return the texts in a set."""
    match value:
        case Made(arguments=(list() as items,)) | Made(items=list() as items):
            return {item for item in items if isinstance(item, str)}
    return set()
