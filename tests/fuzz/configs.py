"""Whole models of Keras's whose config says what Keras would not have written."""

from __future__ import annotations

import io
import json
import math
import random
import zipfile
from collections.abc import Iterator
from typing import Any

CONFIG = "config.json"

ODD: tuple[Any, ...] = (
    *(None, True, 0, -1, 0.5, 2**63, 10**400, 1e308, math.inf, math.nan),
    *("", "relu", "x" * 10**5, "\x1b[31mred", "same"),
    *([], [[]], [0], [None], ["a"], [2**40] * 3, [0] * 10**4),
    *({}, {"a": 1}, {"class_name": 5}, {"config": {}}),
)
"""What stands where Keras has something else."""

Place = tuple[str | int, ...]


def with_another_config(content: bytes, choose: random.Random) -> bytes:
    """A ``.keras`` archive with one to three places of its config changed."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            member = old.read(name)
            new.writestr(name, changed(member, choose) if name == CONFIG else member)
    return out.getvalue()


def changed(config: bytes, choose: random.Random) -> bytes:
    """The text of a config with one to three places changed."""
    value = json.loads(config)
    for _ in range(choose.choice((1, 1, 2, 3))):
        places = [place for place in _places(value) if place]
        names = sorted({place[-1] for place in places if isinstance(place[-1], str)})
        name = choose.choice(names)  # of those in every layer and of those in one alike
        _change(value, choose.choice([p for p in places if name in p[-2:]]), choose)
    return json.dumps(value).encode()


def _places(value: Any, place: Place = ()) -> Iterator[Place]:
    yield place
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _places(inner, (*place, key))


def _change(value: Any, place: Place, choose: random.Random) -> None:
    *path, last = place
    for key in path:
        value = value[key]
    match choose.randrange(6):
        case 0:
            del value[last]
        case 1 if isinstance(value, list):
            value.append(value[last])
        case _:
            value[last] = choose.choice(ODD)
