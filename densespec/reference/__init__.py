"""Computes every op in plain numpy, forward and backward, in float64: the reference."""
