"""Known deviations are found that explain a wrong answer."""
