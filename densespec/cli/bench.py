"""Defines ``densespec bench``."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from densespec.cli import rendering
from densespec.cli.machine import environment
from densespec.cli.record_options import options_of
from densespec.cli.shared import DTYPES, Failure, json_option, print_json, say, say_written
from densespec.cli.sizes import parse_sizes
from densespec.network.catalogue import variants
from densespec.network.files import SUFFIXES
from densespec.timing import TimedNetwork, TimingPlan, candidates_of, measure
from densespec.timing.candidates import is_exported
from densespec.timing.figure import check_figure, draw_timings
from densespec.timing.machine import gemm_speed, processor
from densespec.weights.reading import ReadingOptions


def _list_of(read: Callable[..., Any]) -> Callable[..., tuple[Any, ...] | None]:
    def parse(ctx: click.Context, param: click.Parameter, text: str | None) -> Any:
        return None if text is None else tuple(read(ctx, param, part) for part in text.split(","))

    return parse


def _whole(ctx: click.Context, param: click.Parameter, text: str) -> int:
    number: int = click.IntRange(min=1)(text, param, ctx)
    return number


@click.command("bench")
@click.argument("network", metavar="NET")
@click.argument("targets", nargs=-1, metavar="[TARGET]...")
@click.option(
    "--work",
    type=click.Choice(["inference", "training"]),
    default="inference",
    show_default=True,
    help="Time answers, or training steps, which start from a batch in numpy.",
)
@click.option(
    "--batch",
    "batches",
    default="1,8",
    show_default=True,
    callback=_list_of(_whole),
    metavar="N,...",
    help="Samples at a time.",
)
@click.option(
    "--size",
    "sizes",
    callback=_list_of(parse_sizes),
    metavar="HxW,...",
    help="Sizes of inputs.  [default: 224 in each dimension, or 32 for networks of small images]",
)
@click.option(
    "--threads",
    callback=_list_of(_whole),
    metavar="N,...",
    help="Processors that may be used.  [default: all]",
)
@click.option(
    "--dtype",
    type=click.Choice([*DTYPES, "mixed_float16", "mixed_bfloat16"]),
    help="The dtype of models; mixed ones for training.  [default: each framework's]",
)
@click.option("--weights", metavar="FILE|NAME", help="[default: initial weights]")
@options_of(ReadingOptions, leave_out=("spec",))
@click.option("--rounds", type=click.IntRange(min=1), default=7, show_default=True)
@click.option(
    "--warm-up",
    type=click.IntRange(min=0),
    default=2,
    show_default=True,
    help="Calls before the first that is timed.",
)
@click.option(
    "--starts",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="The number of times that each target is started.",
)
@click.option("--cpu", is_flag=True, help="Hide GPUs.")
@click.option(
    "--figure", type=Path, metavar="FILE", help="Draw samples a second: .png, .svg or .pdf."
)
@json_option
def bench_command(
    network: str,
    targets: tuple[str, ...],
    dtype: str | None,
    weights: str | None,
    sizes: tuple[tuple[int, ...], ...] | None,
    threads: tuple[int, ...] | None,
    figure: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Time a network on this machine, in frameworks, modes and exported files.

    NET is a variant, a spec file or a weight file, or an exported file. TARGETs are backends, with
    their modes, such as torch.nn+inference; formats, which it is exported to first, such as onnx;
    and exported files. Without any, they are all that is installed, each backend in the mode meant
    for the work.

    Every target has a process of its own. Starting is timed from the beginning of that process to
    the first answer. Then the targets take turns, on inputs that lie on the device already; what
    frameworks leave running on a GPU is waited for. Times are medians, with quartiles.

    \b
    Examples:
      densespec bench densenet121
      densespec bench net.safetensors torch.nn torch.nn+inference onnx --batch 1,8,32 --threads 1,2
      densespec bench net.onnx net.xml --figure net.png
      densespec bench densenet-100-12 torch.nn+fast flax.nnx+fast --work training --batch 64
    """
    if figure is not None:
        check_figure(figure)
    reading, options = ReadingOptions.taken(options)
    timed, named = _network_of(network, targets, weights, dtype, reading.said())
    plan = TimingPlan(sizes=sizes or (None,), threads=threads or (None,), **options)
    found = candidates_of(named, plan.work)
    with _saying() as say_what:
        said = {"network": network, "machine": _machine(), "plan": dataclasses.asdict(plan)}
        record: dict[str, Any] = said | measure(timed, found, plan, say_what)
    if not named:  # what is not installed was not asked for
        record["failures"] = [each for each in record["failures"] if not each["missing"]]
    if as_json:
        print_json(record)
    else:
        rendering.show_timings(record)
    if figure is not None and record["timings"]:
        draw_timings(record, figure, title=f"{network}, {plan.work}")
        say_written(figure)
    _say_failures(record["failures"])


def _network_of(
    network: str,
    targets: tuple[str, ...],
    weights: str | None,
    dtype: str | None,
    reading: Mapping[str, Any],
) -> tuple[TimedNetwork, tuple[str, ...]]:
    """Find the network that is meant, and name the targets; the network may also be a target."""
    if is_exported(network):
        if reading:
            raise click.UsageError("NET is exported: options of reading are for weights")
        return TimedNetwork(dtype=dtype), (network, *targets)
    if network in variants() or Path(network).suffix in SUFFIXES:
        return TimedNetwork(network, weights, dtype, reading), targets
    if weights is not None:
        raise click.UsageError("--weights: NET has weights already")
    return TimedNetwork(None, network, dtype, reading), targets


def _machine() -> dict[str, Any]:
    """Say what the figures are of."""
    told = environment(devices=False)
    measured = {"processor": processor(), "gemm_gflops": round(gemm_speed(), 1)}
    return {**measured, "day": time.strftime("%Y-%m-%d"), **told}


@contextlib.contextmanager
def _saying() -> Iterator[Callable[[str], None]]:
    """Show on stderr what is being done; frameworks run in processes of their own."""
    from rich.console import Console
    from rich.markup import escape

    with Console(stderr=True).status("measuring the machine") as status:
        yield lambda text: status.update(escape(text))


def _say_failures(failures: Sequence[Mapping[str, Any]]) -> None:
    """Say what could not be measured, and end with an error if anything could not."""
    for each in failures:
        batch = f" with batches of {each['batch']}" if "batch" in each else ""
        say(f"not measured: {each['candidate']}{batch}: {each['why']}", err=True)
    if failures:
        raise Failure(f"{len(failures)} not measured")
