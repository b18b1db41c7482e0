"""States the version of densespec."""

__version__ = "0.2.0"
