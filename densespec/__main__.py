"""``python -m densespec``: the same as the command ``densespec``."""

from densespec.cli import main

main(prog_name="densespec")
