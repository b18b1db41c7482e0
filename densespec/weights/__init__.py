"""Weight files: a container holds named arrays, a layout says what the names mean."""
