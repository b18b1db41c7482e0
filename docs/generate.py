"""Writes the generated parts of the documentation: ``python docs/generate.py``.

A generated part of a page stands between ``<!-- generated: NAME -->`` and ``<!-- end: NAME -->``;
the rest of the page is written by hand.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import itertools
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from densespec.atomic import atomic_path
from densespec.cli import main
from densespec.data.operations.rand_augment import LIST
from densespec.network.catalogue import get
from densespec.network.fields import plain
from densespec.network.files import schema
from densespec.network.graph import Node, lower
from densespec.network.ops import Shape, weights_of
from densespec.network.spec import DenseNetSpec
from densespec.recipes.presets import presets
from densespec.recipes.recipe import TrainingRecipe
from densespec.reference import kernels as reference
from densespec.reference import losses
from densespec.reference.model import ReferenceModel
from densespec.training import RunOptions

DOCS = Path(__file__).parent
HELP_WIDTH = 90
"""Columns of the text that commands say to ``--help``."""


def fields(record: Any = DenseNetSpec) -> str:
    """A table of the fields of a record, from what the fields say of themselves."""
    rows = []
    for field in dataclasses.fields(record):
        about = field.metadata
        allowed, meaning = _markdown(about["domain"].allowed), _markdown(about["meaning"])
        rows.append([about["constraint"], f"`{field.name}`", allowed, _default(field), meaning])
    head = ["number", "field", "allowed", "default", "meaning"]
    numbered = any(number for number, *_ in rows)
    return _table(head, rows) if numbered else _table(head[1:], [row[1:] for row in rows])


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is dataclasses.MISSING:
        return "required"
    if field.default is None:
        return "none"
    return f"`{json.dumps(plain(field.metadata['domain'], field.default))}`"


def operations() -> str:
    """A table of what random augmentation chooses from."""
    rows = [
        [str(number), row.name, row.about or "no size", "yes" if row.signed else "no"]
        for number, row in enumerate(LIST)
    ]
    return _table(["number", "operation", "size", "two directions"], rows)


def recipes() -> str:
    """A table of the named recipes and what they state."""
    default = TrainingRecipe()
    rows = []
    for preset in presets().values():
        stated = {
            name: value
            for name, value in preset.recipe.to_dict().items()
            if value != default.to_dict()[name] or name in ("epochs", "batch_size", "milestones")
        }
        cells = ", ".join(f"`{name} = {json.dumps(value)}`" for name, value in stated.items())
        rows.append([f"`{preset.name}`", preset.about, cells, preset.source])
    return _table(["name", "for", "fields", "source"], rows)


def nodes() -> str:
    """A table of one node of each kind, from a network's graph."""
    graph = lower(get("densenet121"), (224, 224))
    parts = r"input|stem.*|block1\.layer1\..*|block1\.concat1|transition1\..*"
    shown = re.compile(rf"({parts}|final\..*|global_pool|classifier)")
    rows = [_node(node) for node in graph.nodes if shown.fullmatch(node.name)]
    return _table(["node", "op", "reads", "output", "arrays"], rows)


def _node(node: Node) -> list[str]:
    arrays = [f"`{weight.name}` {_shape(weight.shape)}" for weight in weights_of(node.op)]
    reads = ", ".join(f"`{source}`" for source in node.inputs)
    op = type(node.op).__name__
    return [f"`{node.name}`", op, reads, _shape(node.shape), ", ".join(arrays)]


def _shape(shape: Shape) -> str:
    return "x".join(map(str, shape))


def ops() -> str:
    """A section for each op, from the docstrings of the op and of its kernel in the reference."""
    return "\n\n".join(_section(kind, type(kernel)) for kind, kernel in reference.KERNELS.items())


def _section(kind: Any, kernel: type) -> str:
    parameters = ", ".join(field.name for field in dataclasses.fields(kind))
    parts = [f"### {kind.__name__}", f"`{kind.__name__}({parameters})`"]
    own = inspect.getdoc(kind) or ""
    if not own.startswith(f"{kind.__name__}("):  # what dataclasses write where nobody did
        parts.append(_markdown(own))
    return "\n\n".join([*parts, _markdown(inspect.getdoc(kernel) or "")])


def constraints() -> str:
    """A table of all numbered constraints on what ops are given."""
    sources: dict[str, Callable[..., Any] | type] = {
        kind.__name__: type(kernel) for kind, kernel in reference.KERNELS.items()
    }
    sources["the loss softmax"] = losses.cross_entropy
    sources["the loss softmax of shares"] = losses.shared_cross_entropy
    sources["the loss sigmoid"] = losses.binary_cross_entropy
    sources["the loss squared"] = losses.squared_error
    sources["a network"] = ReferenceModel.check_input
    sources["a training step"] = ReferenceModel.loss_and_gradients
    rows = []
    for where, source in sources.items():
        for number, text in re.findall(r"^(O\d+): (.+?)(?=\n\n|\Z)", _doc(source), re.M | re.S):
            rows.append([number, where, _markdown(text.replace("\n", " "))])
    return _table(["number", "of", "constraint"], sorted(rows))


def _doc(source: Any) -> str:
    return inspect.getdoc(source) or ""


def _markdown(text: str) -> str:
    """A docstring as Markdown: its indented blocks are code there too."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("    "):
            line = "`".join(
                part if inside_code else part.replace("*", r"\*")
                for part, inside_code in _by_code(line)
            )
            line = re.sub(r"^(O\d+): ", r"**\1**: ", line)
        lines.append(line)
    return "\n".join(lines)


def _by_code(line: str) -> Iterable[tuple[str, bool]]:
    """Parts of a line, and whether each stands between double backticks."""
    return ((part, index % 2 == 1) for index, part in enumerate(line.split("``")))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def deviations() -> str:
    """A table of all known deviations, family by family."""
    from densespec_conformance.deviations import families

    parts = []
    for family, group in families().items():
        rows = [[f"`{d.id}`", _cell(d.phrase), _cell(d.source)] for d in group]
        parts += [f"### {family}", _table(["id", "it is so that", "met in"], rows)]
    return "\n\n".join(parts)


def training_parts() -> str:
    """Tables of what the parts of a training step may do instead, and where that is met."""
    from densespec_conformance.explaining.local.alternatives import (
        averages,
        gradients,
        in_training,
        losses,
        parts,
        rates,
        updates,
    )

    found: dict[str, Iterable[Any]] = {
        "Running statistics": in_training.STATISTICS,
        "Norms": in_training.NORMS,
        "Norms on several devices": in_training.DEVICES,
        "Dropout": in_training.DROPOUTS,
        "The loss": (*losses.LOSSES, *losses.REPORTS),
        "The way back": (*itertools.chain(*gradients.BACKWARD.values()), *gradients.ANY),
        "A weight's gradient": gradients.GRADIENTS,
        "The optimizer": updates.CHOICES,
        "The learning rate": rates.COURSES,
        "Averages": averages.AVERAGES,
        "Accumulation": parts.PARTS,
    }
    sections = []
    for title, members in found.items():
        rows = [[_cell(one.does.replace("{}", "...")), _cell(one.source)] for one in members]
        sections += [f"### {title}", _table(["what is done instead", "met in"], rows)]
    return "\n\n".join(sections)


def mutants() -> str:
    """A table of the wrong backends, with the case that catches each and what is said of it."""
    from meta_tests.mutants import MUTANTS

    rows = []
    for name, mutant in MUTANTS.items():
        named = ", ".join(f"`{id_}`" for id_ in mutant.diagnosis) or _cell("; ".join(mutant.says))
        named = named or "beyond the catalogue"
        rows.append([f"`{name}`", _cell(mutant.about), f"`{mutant.case}`", mutant.where, named])
    return _table(["backend", "what is wrong", "caught by", "first difference", "named"], rows)


def equivalents() -> str:
    """A table of the backends that are right in another way."""
    from meta_tests.equivalents import EQUIVALENTS

    rows = [[f"`{name}`", _cell(each.about)] for name, each in EQUIVALENTS.items()]
    return _table(["backend", "how it differs"], rows)


def commands() -> str:
    """A section for each command, which is what it says to ``--help``."""
    group = click.Context(main, info_name="densespec")
    return "\n\n".join(_help(group, name) for name in main.list_commands(group))


def _help(group: click.Context, name: str) -> str:
    command = main.get_command(group, name)
    assert command is not None
    context = click.Context(
        command, group, name, terminal_width=HELP_WIDTH, max_content_width=HELP_WIDTH
    )
    return f"### {name}\n\n```text\n{command.get_help(context)}\n```"


def _cell(text: str) -> str:
    return _markdown(text).replace("|", r"\|")


PAGES: dict[str, dict[str, Callable[[], str]]] = {
    "command-line.md": {"commands": commands},
    "spec.md": {"fields": fields, "nodes": nodes},
    "ops.md": {"ops": ops, "constraints": constraints},
    "data.md": {"operations": operations},
    "recipe.md": {"fields": functools.partial(fields, TrainingRecipe), "recipes": recipes},
    "training.md": {"options": functools.partial(fields, RunOptions)},
    "mutants.md": {
        "in training": training_parts,
        "deviations": deviations,
        "mutants": mutants,
        "equivalents": equivalents,
    },
}
"""The generated parts of each page, by name."""


def page(name: str) -> str:
    """The text of a page with its generated parts made anew.

    Raises:
        ValueError: the page lacks the markers of a part, or has them twice.
    """
    text = (DOCS / name).read_text(encoding="utf-8")
    for part, make in PAGES[name].items():
        start, end = f"<!-- generated: {part} -->\n", f"<!-- end: {part} -->\n"
        if text.count(start) != 1 or text.count(end) != 1:
            raise ValueError(f"{name}: should have {start.strip()} and {end.strip()} once each")
        before, _, rest = text.partition(start)
        after = rest.partition(end)[2]
        text = f"{before}{start}\n{make()}\n\n{end}{after}"
    return text


def files() -> dict[str, str]:
    """Text of every file that is generated in whole or part, by name."""
    generated = {name: page(name) for name in PAGES}
    schemas = {"spec": DenseNetSpec, "recipe": TrainingRecipe}
    return generated | {
        f"{name}.schema.json": json.dumps(schema(kind), indent=2) + "\n"
        for name, kind in schemas.items()
    }


if __name__ == "__main__":
    for name, text in files().items():
        with atomic_path(DOCS / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
