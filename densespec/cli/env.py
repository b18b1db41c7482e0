"""Defines ``densespec env``: it prints what an issue about densespec has to state."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import click

from densespec.cli.machine import environment
from densespec.cli.shared import json_option, print_json, working


@click.command("env")
@click.option("--devices", is_flag=True, help="Start each framework and ask for its devices.")
@json_option
def env_command(devices: bool, as_json: bool) -> None:
    """Show versions, threads and devices, to be pasted into an issue.

    Versions are those of densespec's own requirements, and of the packages that publish a backend,
    as far as they are installed. No framework is imported for them. With --devices each backend's
    framework is started in a process of its own, which takes some seconds.

    \b
    Examples:
      densespec env
      densespec env --devices
      densespec env --json | jq .packages
    """
    with working("starting frameworks") if devices else contextlib.nullcontext():
        record = environment(devices=devices)
    if as_json:
        print_json(record)
    else:
        click.echo("\n".join(_lines(record)))


def _lines(record: Mapping[str, Any]) -> Iterator[str]:
    """Write a record as lines, its mappings as indented ones; what is empty is left out."""
    record = {key: value for key, value in record.items() if value}
    width = max(len(key) for part in (record, *_mappings(record)) for key in part) + 2
    for key, value in record.items():
        if isinstance(value, Mapping):
            yield f"{key}:"
            yield from (f"  {name:{width}}{_text(one)}" for name, one in value.items())
        else:
            yield f"{key:{width + 2}}{value}"


def _mappings(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [value for value in record.values() if isinstance(value, Mapping)]


def _text(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)
