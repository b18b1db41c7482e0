"""Classes of more images than one machine holds, by Ray Data.

    python examples/ray_prediction.py runs/photos/best.safetensors photos/ --out answers

The images are cut into parts. Each of Ray's workers builds the network once, asks it about one part
after another, and writes what it says of each part to a file of its own, whole or not at all. A run
that is started again goes on with the parts that have no file yet; Ray is told to replace a worker
that dies, and to ask about its part again. The answers are those of ``densespec predict``.

On a cluster, start it where ``ray start`` was run, with ``--address auto`` and paths that all its
machines see. Without an address it makes a cluster of this machine alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from densespec.atomic import atomic_path
from densespec.errors import DensespecError
from densespec.predicting import classifier, predict
from densespec.predicting.guessing import files_in

PLAN = "plan.json"
"""The file that says which images a folder of answers is about, and how they are cut."""


class Asking:
    """A worker: a network that was built once, and is asked about parts.

    Args:
        network: What :func:`densespec.predicting.classifier` takes.
        backend: The backend that computes.
        out: The folder of the answers.
    """

    def __init__(self, network: str, backend: str, out: str) -> None:
        self._network = classifier(network, backend=backend).model
        self._out = Path(out)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        images = json.loads(row["images"])
        lines = []
        for found in predict(self._network, images, top=1, batch_size=len(images)):
            (best,) = found.guesses
            said = {"image": str(found.image), "class": best.label, "probability": best.probability}
            lines.append(json.dumps(said))
        with atomic_path(answers_of(self._out, row["part"])) as temporary:
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return {"part": row["part"], "images": len(images)}


def answers_of(out: Path, part: int) -> Path:
    """Name the file of what is said of a part."""
    return out / f"part-{part:06}.jsonl"


def parts_of(images: Sequence[str], size: int) -> Iterator[dict[str, Any]]:
    """Cut images into parts of ``size``, in order."""
    for part, start in enumerate(range(0, len(images), size)):
        yield {"part": part, "images": json.dumps(list(images[start : start + size]))}


def missing(out: Path, plan: dict[str, Any], images: Sequence[str]) -> list[dict[str, Any]]:
    """Give the parts that have no answers yet; a folder is of one plan.

    Raises:
        DensespecError: The folder has answers to another plan.
    """
    out.mkdir(parents=True, exist_ok=True)
    said = json.dumps({**plan, "images": list(images)}, indent=1)
    path = out / PLAN
    if not path.exists():
        with atomic_path(path) as temporary:
            temporary.write_text(said, encoding="utf-8")
    elif path.read_text(encoding="utf-8") != said:
        raise DensespecError(
            f"{out} has answers about other images, or of another network: give another --out"
        )
    return [
        row for row in parts_of(images, plan["size"]) if not answers_of(out, row["part"]).exists()
    ]


@click.command()
@click.argument("network")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder of the answers."
)
@click.option("--backend", default="torch.nn+inference", show_default=True)
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--part", "size", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--address", help="Of a cluster that runs, such as auto; this machine otherwise.")
def main(
    network: str,
    folder: Path,
    out: Path,
    backend: str,
    workers: int,
    size: int,
    address: str | None,
) -> None:
    """Say which classes the images of a FOLDER are of, on several workers."""
    import ray
    import ray.data

    images = [str(path.absolute()) for path in files_in(folder)]
    rows = missing(out, {"network": network, "backend": backend, "size": size}, images)
    if not rows:
        click.echo(f"all of {len(images):,} images are answered in {out}")
        return
    # Rows are read by one more task: without a processor for it, workers would wait for ever.
    here = {} if address else {"num_cpus": workers + 1, "include_dashboard": False}
    ray.init(address=address, **here)
    asked = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        Asking,
        fn_constructor_args=(str(Path(network).absolute()), backend, str(out.absolute())),
        compute=ray.data.ActorPoolStrategy(size=workers),
        max_restarts=-1,
        max_task_retries=-1,
    )
    count = sum(row["images"] for row in asked.iter_rows())
    click.echo(f"{count:,} of {len(images):,} images answered in {out}")


if __name__ == "__main__":
    main()
