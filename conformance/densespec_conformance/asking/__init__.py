"""Defines as plain data what a target is and what it can be asked, and makes seeded inputs."""
