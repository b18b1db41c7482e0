"""A case runs on a target here, within its limits; the plugin runs them all."""
