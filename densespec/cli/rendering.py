"""Shows results on the command line: as JSON for programs, and as tables for people."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from densespec.network.catalogue import Variant
from densespec.network.graph import Count, Graph, lower
from densespec.network.spec import DenseNetSpec

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

UNBOUNDED = 10_000
"""Output that goes to no terminal has this many columns, so that nothing is wrapped or cut."""

WIDE = 140
"""A terminal with this many columns shows the catalogue well as one table."""


def shape_text(shape: Sequence[int | None]) -> str:
    """Write ``(64, 56, None)`` as ``64x56x?``."""
    return "x".join("?" if size is None else str(size) for size in shape)


def count_record(count: Count) -> dict[str, int]:
    """Turn a count of parameters into JSON values."""
    return {
        "total": count.total,
        "trainable": count.trainable,
        "non_trainable": count.non_trainable,
    }


def variant_record(variant: Variant) -> dict[str, Any]:
    """Turn a named variant into JSON values; its parameters are counted on its graph."""
    return {
        "name": variant.name,
        "depth": variant.spec.depth,
        "parameters": count_record(lower(variant.spec).parameters),
        "published": {"parameters": variant.parameters, "errors": dict(variant.errors)},
        "source": variant.source,
        "spec": variant.spec.to_dict(),
    }


def graph_record(name: str, graph: Graph) -> dict[str, Any]:
    """Turn a network into JSON values: its spec, its stages and its totals."""
    return {
        "name": name,
        "spec": graph.spec.to_dict(),
        "input": list(graph.input.shape),
        "stages": [
            {
                "name": stage.name,
                "shape": list(stage.shape),
                "parameters": count_record(stage.parameters),
                "multiply_adds": stage.multiply_adds,
            }
            for stage in graph.stages()
        ],
        "parameters": count_record(graph.parameters),
        "multiply_adds": graph.multiply_adds,
    }


def show_variants(variants: Iterable[Variant]) -> None:
    """Print the catalogue: one table, or two where a terminal is too narrow for one."""
    counted, published = [], []
    for variant in variants:
        spec = variant.spec
        counted.append(
            (
                variant.name,
                str(spec.depth),
                str(spec.growth_rate),
                " ".join(map(str, spec.blocks)),
                "B" * (spec.bottleneck_width is not None) + "C" * (spec.compression < 1),
                f"{lower(spec).parameters.trainable:,}",
            )
        )
        published.append((_errors_text(variant.errors), variant.source))
    if _console().width >= WIDE:
        rows = [(*row, *more) for row, more in zip(counted, published, strict=True)]
        _show(_variant_table(rows, "published top-1 error, %", "source"))
    else:
        sources = _table("published top-1 error in %, and source")
        sources.add_column("name", no_wrap=True)
        sources.add_column("", overflow="fold")
        for row, more in zip(counted, published, strict=True):
            sources.add_row(row[0], "\n".join(filter(None, more)))
        _show(_variant_table(counted), sources)


def _errors_text(errors: Mapping[str, float]) -> str:
    """Write errors to the decimals of the most exact one: 7.0 is 7.00 beside 5.24."""
    places = max((len(str(error).partition(".")[2]) for error in errors.values()), default=0)
    return ", ".join(f"{data} {error:.{places}f}" for data, error in errors.items())


def _variant_table(rows: Iterable[tuple[str, ...]], *more: str) -> Table:
    table = _table("DenseNet variants")
    for column in ("name", "depth", "k", "blocks", "B/C", "parameters"):
        number = column in ("depth", "k", "parameters")
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    for column in more:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    table.caption = "parameters: trainable ones"
    return table


def show_predictions(records: Iterable[Mapping[str, Any]]) -> None:
    """Print the classes of images, a line for each of them."""
    table = _table("", show_header=True)
    for column in ("image", "class", "%", "id"):
        table.add_column(column, justify="right" if column == "%" else "left", overflow="fold")
    for record in records:
        table.add_section()
        for index, guess in enumerate(record["guesses"]):
            table.add_row(
                "" if index else record["image"],
                guess["label"],
                f"{100 * guess['probability']:.2f}",
                guess["identifier"],
            )
    _show(table)


def show_pretrained(records: Iterable[Mapping[str, Any]]) -> None:
    """Print what is known of trained weights: one table, or two where a terminal is too narrow."""
    facts, places = [], []
    for record in records:
        size = record["megabytes"] or record["about_megabytes"]
        facts.append(
            (
                record["name"],
                record["network"],
                record["data"],
                "/".join(f"{error:.2f}" for error in record["errors"].values()),
                f"{'' if record['megabytes'] else '~'}{size:.1f}",
                "yes" if record["here"] else "",
            )
        )
        places.append((record["licence"], record["source"]))
    if _console().width >= WIDE:
        rows = [(*fact, *place) for fact, place in zip(facts, places, strict=True)]
        _show(_pretrained_table(rows, "licence", "source"))
        return
    sources = _table("licence, and source")
    sources.add_column("name", overflow="fold")
    sources.add_column("", overflow="fold")
    for fact, place in zip(facts, places, strict=True):
        sources.add_row(fact[0], "\n".join(place))
    _show(_pretrained_table(facts), sources)


def _pretrained_table(rows: Iterable[tuple[str, ...]], *more: str) -> Table:
    table = _table("trained weights")
    for column in ("name", "network", "data", "error, %", "MB", "here", *more):
        number = column in ("error, %", "MB")
        table.add_column(column, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    table.caption = "error: published, top-1/top-5; MB: published, or ~ those of the arrays"
    return table


def show_timings(record: Mapping[str, Any]) -> None:
    """Print what was timed, the fastest of each shape first, and the machine."""
    _show(_timing_table(record), _start_table(record))
    machine = record["machine"]
    devices = {each["device"] for each in record["starts"]} - {"cpu", "not told"}
    speeds = [f"float32 GEMM {machine['gemm_gflops']:,.0f} GFLOP/s"]
    for each in record["starts"]:
        if each["device_gflops"] and each["device"] in devices:
            devices.remove(each["device"])
            speed = f"float32 GEMM {each['device_gflops']:,.0f} GFLOP/s"
            speeds.append(f"{each['device']}, {speed} in {each['candidate']}")
    _console().print(f"{machine['processor']}, {machine['processors']}, {'; '.join(speeds)}")


def _timing_table(record: Mapping[str, Any]) -> Table:
    table = _table(f"{record['network']}, {record['plan']['work']}")
    for column in ("target", "threads", "input", "ms", "quartiles", "samples/s", "MB", "MB on GPU"):
        left = column in ("target", "input")
        table.add_column(column, justify="left" if left else "right", overflow="fold")
    rows = sorted(record["timings"], key=lambda row: (str(row["shape"]), row["median"]))
    for shape, group in itertools.groupby(rows, lambda row: row["shape"]):
        table.add_section()
        for row in group:
            table.add_row(
                row["candidate"],
                "all" if row["threads"] is None else str(row["threads"]),
                shape_text(shape),
                _milliseconds(row["median"]),
                " to ".join(map(_milliseconds, row["quartiles"])),
                f"{row['per_second']:,.1f}",
                _megabytes(row["memory"]),
                _megabytes(row["device_memory"]),
            )
    table.caption = "ms: median; MB: the most memory of the process so far, and of the GPU's"
    return table


def _start_table(record: Mapping[str, Any]) -> Table:
    table = _table("from the start of a process to the first answer")
    for column in ("target", "threads", "on", "s", "MB", "MB on GPU"):
        left = column in ("target", "on")
        table.add_column(column, justify="left" if left else "right", overflow="fold")
    for row in sorted(record["starts"], key=lambda row: row["median"]):
        table.add_row(
            row["candidate"],
            "all" if row["threads"] is None else str(row["threads"]),
            row["device"],
            f"{row['median']:.2f}",
            _megabytes(row["memory"]),
            _megabytes(row["device_memory"]),
        )
    return table


def _milliseconds(seconds: float) -> str:
    milliseconds = 1000 * seconds
    return f"{milliseconds:,.0f}" if milliseconds >= 1000 else f"{milliseconds:.3g}"


def _megabytes(count: int | None) -> str:
    return "" if count is None else f"{count / 1e6:,.0f}"


def show_graph(name: str, graph: Graph) -> None:
    """Print a network stage by stage, then the fields of its spec."""
    _show(_stage_table(name, graph), _spec_table(graph.spec))


def show_built(record: Mapping[str, Any]) -> None:
    """Print the record of a built model, one name and value a line."""
    counts = record["parameters"]
    table = _table(f"{record['name']} on {record['backend']}", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_row("model", record["model"])
    table.add_row("input", shape_text(record["input"]))
    for each in record["outputs"]:
        stride = f", stride {each['stride']}" if each["stride"] else ""
        table.add_row("output", f"{each['name']}: {each['channels']} channels{stride}")
    table.add_row("parameters", f"{counts['total']:,}")
    table.add_row("trainable", f"{counts['trainable']:,}")
    table.add_row("non-trainable", f"{counts['non_trainable']:,}")
    table.add_row("built in", f"{record['seconds']} s")
    _show(table)


def _stage_table(name: str, graph: Graph) -> Table:
    table = _table(f"{name} at {shape_text(graph.input.shape)}")
    table.add_column("stage", no_wrap=True)
    for column in ("output", "parameters", "multiply-adds"):
        table.add_column(column, justify="right", no_wrap=True)
    for stage in graph.stages():
        table.add_row(
            stage.name,
            shape_text(stage.shape),
            f"{stage.parameters.total:,}",
            _optional(stage.multiply_adds),
        )
    total = graph.parameters
    table.add_section()
    table.add_row("total", "", f"{total.total:,}", _optional(graph.multiply_adds), style="bold")
    table.add_row("trainable", "", f"{total.trainable:,}", "")
    table.add_row("non-trainable", "", f"{total.non_trainable:,}", "")
    table.caption = (
        "output: channels x sizes; parameters: with running statistics, which are the "
        "non-trainable ones; one multiply-add is two FLOPs"
    )
    return table


def _spec_table(spec: DenseNetSpec) -> Table:
    """Show the fields in two columns, so that the table stays short; bold if not the default."""
    from rich.text import Text

    cells = []
    for field in dataclasses.fields(spec):
        value = getattr(spec, field.name)
        style = "" if value == field.default else "bold"
        cells.append((Text(field.name, style), Text(_value_text(value), style)))
    half = -(-len(cells) // 2)
    table = _table("spec (bold: not the default)", show_header=False)
    for _ in range(4):
        table.add_column(no_wrap=True)
    for left, right in itertools.zip_longest(cells[:half], cells[half:], fillvalue=("", "")):
        table.add_row(*left, *right)
    return table


def _value_text(value: Any) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return "true" if value else "false"
        case tuple():
            return " ".join(map(str, value))
    return str(value)


def _optional(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"


def _table(title: str, **options: Any) -> Table:
    from rich import box
    from rich.table import Table

    return Table(
        title=title,
        title_style="bold",
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        **options,
    )


def _console() -> Console:
    """Return standard output. Only a terminal has a width: what goes elsewhere is not wrapped."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else UNBOUNDED
    return Console(width=width, markup=False, emoji=False, highlight=False)


def _show(*tables: Table) -> None:
    """Print tables. On a terminal cells are wrapped where columns allow it, but never cut."""
    from rich.measure import Measurement

    console = _console()
    unbounded = console.options.update(max_width=UNBOUNDED)
    narrowest = 0
    for table in tables:
        measured = Measurement.get(console, unbounded, table)
        rigid = all(column.no_wrap for column in table.columns)  # rich would cut its cells
        narrowest = max(narrowest, measured.maximum if rigid else measured.minimum)
    console.width = max(console.width, narrowest)
    for index, table in enumerate(tables):
        if index:
            console.print()
        console.print(table)
