"""Defines ``densespec weights``: trained weights by name."""

from __future__ import annotations

from typing import Any

import click

from densespec.cli import rendering
from densespec.cli.shared import json_option, print_json
from densespec.network.differences import nearest_variant
from densespec.network.graph import lower
from densespec.pretrained.fetching import fetch, is_here
from densespec.pretrained.registry import get_row, registry
from densespec.pretrained.row import PretrainedWeights

NORMS = frozenset({"batch_norm_epsilon", "batch_norm_momentum", "running_variance"})
"""A publisher's network may differ in these fields from the variant that it is known as."""


@click.group("weights", invoke_without_command=True)
@click.option(
    "--network", metavar="NAME", help="Only the weights of one network, such as densenet121."
)
@json_option
@click.pass_context
def weights_command(ctx: click.Context, network: str | None, as_json: bool) -> None:
    """List trained weights that have names, or fetch them.

    Every command that takes a weight file takes a name as well. Errors are those that were
    published, in %; sizes are published ones, or about those of the arrays. "here" says whether a
    file of that name is in densespec's cache or another program's.

    \b
    Examples:
      densespec weights
      densespec weights --network densenet121
      densespec weights fetch torchvision:DenseNet121_Weights.IMAGENET1K_V1
      densespec inspect timm/densenet121.ra_in1k
    """
    if ctx.invoked_subcommand is not None:
        return
    records = [_record(row) for row in registry().values()]
    records = [record for record in records if network in (None, record["network"])]
    if as_json:
        print_json(records)
    else:
        rendering.show_pretrained(records)


@weights_command.command("fetch")
@click.argument("name")
def fetch_command(name: str) -> None:
    """Fetch trained weights, unless they are here; print where they lie.

    A file that torch.hub, Keras or the Hub has in its cache already is used from there. Digests
    are checked either way.
    """
    found = fetch(get_row(name))
    for assumption in found.assumptions:
        click.echo(f"note: {assumption}", err=True)
    click.echo(found.path)


def _record(row: PretrainedWeights) -> dict[str, Any]:
    return {
        "name": row.name,
        "names": list(row.names),
        "tags": list(row.tags),
        "network": _network(row),
        "data": row.data,
        "classes": row.spec.classes if row.classifier else None,
        "errors": dict(row.errors),
        "licence": row.licence,
        "source": row.source,
        "revision": row.revision,
        "digest": str(row.digest) if row.digest else None,
        "megabytes": row.megabytes,
        "about_megabytes": round(4 * _values(row) / 2**20, 1),
        "layout": row.layout,
        "spec": row.spec.to_dict(),
        "preprocessing": row.preprocessing.to_dict() if row.preprocessing else None,
        "here": is_here(row),
        "sources": dict(row.sources),
    }


def _values(row: PretrainedWeights) -> int:
    return lower(row.spec, include_top=row.classifier).parameters.total


def _network(row: PretrainedWeights) -> str:
    """Name the network's variant, whatever its norms are, or else the publisher's name for it."""
    name, differences = nearest_variant(row.spec)
    return name if name and differences.keys() <= NORMS else row.key
