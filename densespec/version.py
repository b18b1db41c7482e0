"""The version of densespec."""

__version__ = "0.1.0"
