"""One case on one target, and what comes of it; the plugin runs them all."""
