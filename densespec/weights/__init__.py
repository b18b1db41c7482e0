"""Reads and writes weight files: a container holds named arrays, a layout says what they mean."""
