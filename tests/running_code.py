"""Runs code of the documentation: ``python running_code.py FILE``.

Statements run one by one in one namespace. Keras runs on one engine in a process, so a statement
that asks for another one is left out, and its number is printed: who runs a page runs it once for
each of its engines, and sees that each statement ran on one of them.
"""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from typing import Any

import densespec
from densespec.errors import EngineConflict
from densespec.installed import is_installed
from densespec_conformance.adapters.constructing import import_module


def small_networks() -> None:
    """Give every named network two layers in each block, so that building it takes no time."""
    from dataclasses import replace

    from densespec.network import catalogue

    small = {
        name: replace(variant, spec=variant.spec.replace(blocks=(2,) * len(variant.spec.blocks)))
        for name, variant in catalogue.catalogue().items()
    }
    catalogue.catalogue = lambda: small


def run(code: str, names: dict[str, Any]) -> list[int]:
    """Run statements; give the numbers of those that need another engine than Keras runs on."""
    left_out = []
    for number, statement in enumerate(ast.parse(code).body):
        try:
            exec(compile(ast.Module([statement], []), "<documentation>", "exec"), names)
        except EngineConflict:
            left_out.append(number)
    return left_out


def main() -> None:
    record = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    if record["engine"]:
        from densespec_keras.engine import keras_on

        keras_on(record["engine"])
    if not record["full_size"]:
        small_networks()
    if is_installed("torchvision"):
        import_module("torchvision")  # which may miss operators beside a CPU build of PyTorch
    names: dict[str, Any] = {"densespec": densespec, "__name__": "documentation"}
    exec(record["before"], names)
    print(f"\n{json.dumps(run(record['code'], names))}")


if __name__ == "__main__":
    main()
