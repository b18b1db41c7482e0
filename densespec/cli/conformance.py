"""``densespec conformance``: the command of the suite, which is a package of its own."""

from __future__ import annotations

import click

from densespec import published
from densespec.installed import require

GROUP = "densespec.commands"

require("the conformance suite", "hypothesis", extra="conformance")

conformance_command: click.Command = published.load(GROUP, "command", "conformance")
