"""Describes training recipes as data: each term of a training step, and the named recipes."""
