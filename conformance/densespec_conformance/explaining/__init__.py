"""Finding the known deviation that explains a wrong answer."""
