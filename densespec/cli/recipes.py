"""Defines ``densespec recipes``."""

from __future__ import annotations

import click

from densespec.cli.shared import json_option, print_json
from densespec.network.files import to_json, to_toml
from densespec.recipes.presets import get_recipe, presets


@click.command("recipes")
@click.argument("name", required=False)
@json_option
def recipes_command(name: str | None, as_json: bool) -> None:
    """List the named recipes, or print one as TOML, to edit and give to --recipe.

    \b
    Examples:
      densespec recipes
      densespec recipes cifar+ > mine.toml
    """
    if name is not None:
        recipe = get_recipe(name)
        click.echo(to_json(recipe) if as_json else to_toml(recipe), nl=False)
    elif as_json:
        rows = [
            {"name": p.name, "about": p.about, "source": p.source, "recipe": p.recipe.to_dict()}
            for p in presets().values()
        ]
        print_json(rows)
    else:
        for preset in presets().values():
            click.echo(f"{preset.name:20} {preset.about}")
