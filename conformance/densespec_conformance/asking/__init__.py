"""What a target is and what it can be asked, as plain data; and seeded inputs."""
