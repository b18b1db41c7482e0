"""Defines the commands that ask trained networks about images."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from densespec.backends import REFERENCE
from densespec.cli import rendering
from densespec.cli.record_options import options_of
from densespec.cli.shared import json_option, print_json, progress_bar, say_written, working
from densespec.predicting import Prediction, evaluate, predict
from densespec.predicting.confusion import draw_confusion
from densespec.predicting.sheet import write_sheet
from densespec.pretrained.preprocessing import Preprocessing
from densespec.pretrained.registry import get_row
from densespec.weights.reading import InterpretingOptions

network_argument = click.argument("network", metavar="NET")
backend_option = click.option(
    "--backend",
    default=REFERENCE,
    show_default=True,
    help=f"The backend; {REFERENCE}, the reference, needs no framework and takes long.",
)
weights_option = click.option(
    "--weights", metavar="FILE|NAME", help="The weights of a variant.  [default: imagenet]"
)
prepare_option = click.option(
    "--prepare-as",
    metavar="NAME",
    help="Prepare images as these trained weights need it.  [default: as those of NET do]",
)


@click.command("predict")
@network_argument
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@backend_option
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True)
@weights_option
@options_of(InterpretingOptions)
@prepare_option
@click.option("--sheet", type=Path, metavar="FILE", help="Write a contact sheet, a .png file.")
@json_option
def predict_command(
    network: str,
    images: tuple[Path, ...],
    backend: str,
    top: int,
    weights: str | None,
    prepare_as: str | None,
    sheet: Path | None,
    as_json: bool,
    **reading: Any,
) -> None:
    """Say which classes images have.

    NET is a variant's name, with the weights that imagenet means; the name of trained weights; or a
    weight file or a folder of the Hub that says what images need, as those of training runs do.
    IMAGES are files, and folders of them.

    \b
    Examples:
      densespec predict densenet121 cat.jpg --backend torch.nn
      densespec predict runs/photos/best.safetensors photos/ --top 3 --sheet sheet.png
      densespec predict timm/densenet121.ra_in1k cat.jpg --json | jq '.[0].guesses[0].label'
    """
    with working(f"asking {network} on {backend}"):
        found = predict(
            network,
            images,
            backend=backend,
            top=top,
            weights=weights,
            preprocessing=_preprocessing(prepare_as),
            **reading,
        )
    if as_json:
        print_json([_record(prediction) for prediction in found])
    else:
        rendering.show_predictions([_record(prediction) for prediction in found])
    if sheet is not None:
        write_sheet(found, sheet)
        say_written(sheet)


@click.command("evaluate")
@network_argument
@click.option("--data", required=True, metavar="NAME[:PLACE]", help="The data to test on.")
@backend_option
@weights_option
@options_of(InterpretingOptions)
@prepare_option
@click.option(
    "--part",
    type=click.Choice(["test", "train", "all"]),
    default="test",
    show_default=True,
    help="Which of the images to look at.",
)
@click.option("--batch-size", type=click.IntRange(min=1), default=16, show_default=True)
@click.option(
    "--figure", type=Path, metavar="FILE", help="Draw the confusion matrix: .png, .svg or .pdf."
)
@json_option
def evaluate_command(
    network: str,
    data: str,
    backend: str,
    weights: str | None,
    prepare_as: str | None,
    part: str,
    batch_size: int,
    figure: Path | None,
    as_json: bool,
    **reading: Any,
) -> None:
    """Measure how well a network classifies the images of a data set.

    Prints the loss, and the parts of the images whose class is the likeliest or among the five
    likeliest. Folders may be called by names or WordNet ids, and be some of the network's classes.

    \b
    Examples:
      densespec evaluate densenet121 --data folder:imagenet --backend torch.nn
      densespec evaluate runs/photos/best.safetensors --data folder:photos --figure confusion.png
    """
    with progress_bar(f"asking {network} on {backend}") as advance:
        done = evaluate(
            network,
            data,
            backend=backend,
            weights=weights,
            preprocessing=_preprocessing(prepare_as),
            part=part,
            batch_size=batch_size,
            progress=advance,
            **reading,
        )
    if as_json:
        print_json(asdict(done) | {"confusion": done.confusion.tolist()})
    else:
        click.echo(f"{done.count:,} images of {len(done.classes)} classes of {done.data}")
        click.echo(f"loss {done.loss:.4f}, top-1 {done.top1:.2%}, top-5 {done.top5:.2%}")
    if figure is not None:
        draw_confusion(done, figure)
        say_written(figure)


def _preprocessing(name: str | None) -> Preprocessing | None:
    return None if name is None else get_row(name).preprocessing


def _record(prediction: Prediction) -> dict[str, Any]:
    return {
        "image": str(prediction.image),
        "guesses": [asdict(guess) for guess in prediction.guesses],
    }
