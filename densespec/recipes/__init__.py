"""Training recipes as data: what each term of a training step means, and the named recipes."""
