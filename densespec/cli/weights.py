"""Defines the commands that inspect, convert and compare weight files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import click

from densespec.backends import REFERENCE
from densespec.cli.record_options import options_of
from densespec.cli.shared import DTYPES, json_option, print_json, progress_bar, say, say_written
from densespec.errors import SHOWN, in_words
from densespec.hub import FolderFormat, folder_of_file
from densespec.network.differences import nearest_variant
from densespec.weights.comparing import WeightsComparison, compare
from densespec.weights.convert import Conversion, convert
from densespec.weights.layouts import layouts as known_layouts
from densespec.weights.opening import IdentifiedWeights, open_weights
from densespec.weights.reading import ReadingOptions

SIDES = ("in the source", "in the target")

file_argument = click.Path(path_type=Path)


@click.command("layouts")
def layouts_command() -> None:
    """List the weight layouts that are known."""
    for layout in known_layouts().values():
        click.echo(f"{layout.name:20} {layout.about} ({', '.join(layout.containers)})")


@click.command("inspect")
@click.argument("file", type=file_argument)
@options_of(ReadingOptions)
@json_option
def inspect_command(file: Path, as_json: bool, **reading: Any) -> None:
    """Say what a weight file holds: layout, network, classes and dtype.

    Works it out from the names and shapes of the arrays; nothing in the file is executed.

    \b
    Examples:
      densespec inspect densenet121.pth
      densespec inspect model.weights.h5 --spec densenet169-bc
      densespec inspect unet.pth --prefix encoder.
    """
    with open_weights(file, **reading) as found:
        if as_json:
            print_json(_record(found))
        else:
            _say(found)


@click.command("convert")
@click.argument("source", type=file_argument)
@click.argument("target", type=file_argument)
@options_of(ReadingOptions)
@click.option(
    "--to", "to_layout", metavar="LAYOUT", help="The target's layout; by its suffix by default."
)
@click.option("--dtype", type=click.Choice(DTYPES))
@click.option("--allow-different", is_flag=True, help="Write even what computes something else.")
@click.option("--check", is_flag=True, help="Run both afterwards, and print how far they differ.")
@click.option(
    "--format",
    "folder_format",
    type=click.Choice(get_args(FolderFormat)),
    help="Write a folder as the Hugging Face Hub keeps it, densespec's own or timm's.",
)
@json_option
def convert_command(
    source: Path,
    target: Path,
    to_layout: str | None,
    dtype: str | None,
    allow_different: bool,
    check: bool,
    folder_format: FolderFormat | None,
    as_json: bool,
    **reading: Any,
) -> None:
    """Convert weights from one framework's file to another's.

    The source's layout, network and classes are worked out and printed. The target's layout goes
    by its suffix: .safetensors is densespec's own, .pth torchvision's, .weights.h5 and .keras are
    Keras models built by densespec, .h5 is keras.applications', .msgpack a Flax tree, .orbax the
    folder of a flax.nnx module's state. A target whose implementation would compute something else
    is refused, with the measured effect, unless float32's own rounding of the network is larger.
    The target appears whole or not at all.

    \b
    Examples:
      densespec convert densenet121.pth densenet121.keras
      densespec convert chexnet.pth.tar chexnet.safetensors --check
      densespec convert densenet121.pth densenet121.weights.h5 --to keras-applications
      densespec convert rgb.pth grey.safetensors --in-channels 1
      densespec convert densenet121.keras my-densenet121 --format timm
    """
    if folder_format is not None:
        if to_layout or dtype or allow_different or check or as_json:
            raise click.UsageError("--format writes a folder as it is: it takes options of reading")
        folder_of_file(source, target, format=folder_format, **reading)
        say_written(target)
        return
    with progress_bar(f"writing {target.name}") as advance:
        done = convert(
            source,
            target,
            to_layout=to_layout,
            dtype=dtype,
            allow_different=allow_different,
            progress=advance,
            **reading,
        )
    apart = _check(source, done, ReadingOptions(**reading)) if check else None
    if as_json:
        print_json(_conversion_record(done, apart))
    else:
        _say_conversion(done, apart)


@click.command("verify")
@click.argument("first", type=file_argument)
@click.argument("second", type=file_argument)
@options_of(ReadingOptions, multiple=True)
@click.option(
    "--backend",
    default=REFERENCE,
    show_default=True,
    help=f"The backend that computes; {REFERENCE} is the reference.",
)
@json_option
def verify_command(
    first: Path,
    second: Path,
    backend: str,
    as_json: bool,
    **reading: tuple[Any, ...],
) -> None:
    """Say whether two weight files are the same network.

    The files may be of different layouts. Compares specs, every array, and what the float64
    reference, or another backend, computes from each on seeded input. Exit status 0 if they are
    the same, 1 if not.

    How a file is to be read is said of the first, and again of the second; a --spec that is given
    once is that of both.

    \b
    Examples:
      densespec verify densenet121.pth densenet121.weights.h5
      densespec verify checkpoint.pth.tar net.safetensors --key state_dict_ema
    """
    done = compare(first, second, reading=_of_both(reading), backend=backend)
    if as_json:
        print_json(_comparison_record(done))
    else:
        _say_comparison(done)
    if not done.same_network:
        raise SystemExit(1)


def _of_both(said: Mapping[str, tuple[Any, ...]]) -> tuple[ReadingOptions, ReadingOptions]:
    """Return what is said of the first file, and of the second; one spec holds for both.

    Raises:
        click.UsageError: Something was said more than twice.
    """
    if often := [name for name, values in said.items() if len(values) > 2]:
        raise click.UsageError(f"--{often[0]}: say it of the first file, and of the second")
    values = {name: (*values, None, None) for name, values in said.items()}
    if len(said["spec"]) == 1:
        values["spec"] = said["spec"] * 2
    first, second = ({name: both[which] for name, both in values.items()} for which in (0, 1))
    return ReadingOptions(**first), ReadingOptions(**second)


def _check(source: Path, done: Conversion, reading: ReadingOptions) -> float | None:
    """Compare what was written with its source, read as it was."""
    spec, layouts = reading.spec or done.source.spec, (done.source.layout.name, done.layout.name)
    return compare(
        source,
        done.path,
        reading=(
            reading.replace(spec=spec, layout=layouts[0]),
            ReadingOptions(spec=None if _fixes_all(done) else spec, layout=layouts[1]),
        ),
        logits=not done.keeps_activation,
    ).output_difference


def _fixes_all(done: Conversion) -> bool:
    """Say whether the target's implementation fixes all that arrays do not tell."""
    return "activation" in done.layout.implements


def _network(found: IdentifiedWeights) -> str:
    spec = found.spec
    name, differences = nearest_variant(spec)
    if name is None:
        name = f"DenseNet-{spec.depth} of blocks {' '.join(map(str, spec.blocks))}"
    elif differences:
        name += f" with {', '.join(f'{n} = {ours!r}' for n, (ours, _) in differences.items())}"
    head = f"{spec.classes} classes" if found.has_classifier else "no classifier"
    if activation := found.graph.classifier_activation:
        head += f" with {activation}"
    return f"{name}, {spec.in_channels} channels in, {head}, {' and '.join(found.dtypes)}"


def _say(found: IdentifiedWeights) -> None:
    say(f"{found.path}: {_network(found)}")
    article = "an" if found.container[0] in "aeiou" else "a"
    kind = "folder" if found.path and found.path.is_dir() else "file"
    held = f"in {article} {found.container} {kind}"
    say(f"layout {found.layout.name} ({found.layout.about}), {held}")
    for note in found.notes:
        say(f"note: {note}")


def _say_conversion(done: Conversion, apart: float | None) -> None:
    _say(done.source)
    say(f"written {done.path} in layout {done.layout.name}")
    for line in in_words(done.differences if done.is_another else {}, *SIDES):
        say(f"different: {line}")
    for note in done.notes:
        say(f"note: {note}")
    if done.effect and done.is_another:
        apart_by = done.effect.difference
        say(f"different: the feature map, by {apart_by:.1e} of its largest value")
    for line in in_words(done.training_differences, *SIDES):
        say(f"note: only training differs: {line}")
    if done.not_finite:
        names = ", ".join(done.not_finite[:SHOWN])
        say(f"warning: NaN or infinite values in {names}", err=True)
    if apart is not None:
        say(f"checked: largest relative difference at the output {apart:.1e}")


def _say_comparison(done: WeightsComparison) -> None:
    _say(done.first)
    _say(done.second)
    for line in in_words(done.spec_differences, "in the first", "in the second"):
        say(f"different: {line}")
    first, second = done.activations
    if first != second:
        say(
            f"different: {first or 'nothing'} follows the classifier in the first, "
            f"{second or 'nothing'} in the second"
        )
    for label, names in (("first", done.only_first), ("second", done.only_second)):
        if names:
            say(f"different: only the {label} has {', '.join(names[:SHOWN])}")
    differing = {name: value for name, value in done.tensor_differences.items() if value}
    worst = sorted(differing.items(), key=lambda item: -item[1])[:SHOWN]
    for name, value in worst:
        say(f"different: {name} by up to {value:.3g}")
    count = len(done.tensor_differences)
    say(f"{count - len(differing)} of {count} arrays are identical")
    if done.output_difference is not None:
        say(f"largest relative difference at the output: {done.output_difference:.1e}")
    say(_verdict(done))


def _verdict(done: WeightsComparison) -> str:
    """Say whether files are the same network, and what of both was no more than assumed."""
    if not done.same_network:
        return "not the same network"
    assumed = " and ".join(f"{name} = {v!r}" for name, v in done.assumed_of_both.items())
    return f"the same network, if both have {assumed} as assumed" if assumed else "the same network"


def _record(found: IdentifiedWeights) -> dict[str, Any]:
    return {
        "path": str(found.path),
        "container": found.container,
        "layout": found.layout.name,
        "variant": found.variant,
        "spec": found.spec.to_dict(),
        "classifier": found.has_classifier,
        "classifier_activation": found.graph.classifier_activation,
        "dtypes": list(found.dtypes),
        "notes": list(found.notes),
    }


def _conversion_record(done: Conversion, apart: float | None) -> dict[str, Any]:
    return {
        "source": _record(done.source),
        "target": {"path": str(done.path), "layout": done.layout.name, "container": done.container},
        "differences": {name: list(pair) for name, pair in done.differences.items()},
        "consequence": done.effect and done.effect.difference,
        "rounding": done.effect and done.effect.rounding,
        "training_differences": {n: list(pair) for n, pair in done.training_differences.items()},
        "not_finite": list(done.not_finite),
        "notes": list(done.notes),
        "checked": apart,
    }


def _comparison_record(done: WeightsComparison) -> dict[str, Any]:
    return {
        "first": _record(done.first),
        "second": _record(done.second),
        "same": done.same_network,
        "assumed_of_both": done.assumed_of_both,
        "spec_differences": {name: list(pair) for name, pair in done.spec_differences.items()},
        "only_first": list(done.only_first),
        "only_second": list(done.only_second),
        "tensor_differences": {n: v for n, v in done.tensor_differences.items() if v},
        "activations": list(done.activations),
        "output_difference": done.output_difference,
    }
