"""A target's own process: frameworks are imported here, and requests are answered."""
