"""Finds known deviations that explain a wrong answer."""
