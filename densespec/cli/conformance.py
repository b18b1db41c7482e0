"""Defines ``densespec conformance``: the command of the suite, which is a package of its own."""

from __future__ import annotations

import click

from densespec import published

GROUP = "densespec.commands"

conformance_command: click.Command = published.load(GROUP, "command", "conformance")
