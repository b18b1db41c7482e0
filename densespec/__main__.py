"""Runs the command ``densespec``, also as ``python -m densespec``."""

from densespec.cli import main as commands
from densespec.interrupts import raise_again


def main() -> None:
    """Run the command line."""
    raise_again()
    commands(prog_name="densespec")


if __name__ == "__main__":
    main()
