"""Choosing cases, running them on targets and gathering the results."""
