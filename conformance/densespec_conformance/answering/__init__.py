"""Runs a target's own process, in which frameworks are imported and requests answered."""
