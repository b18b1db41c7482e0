"""Damaged and hostile weight files by the thousand, each read in a process with limits.

    nox -s fuzz -- --files 10000

ends with a table of what came of them. ``docs/files.md`` says what is promised.
"""
