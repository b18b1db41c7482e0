"""What a target is and what it can be asked: plain data, and seeded inputs."""
