"""From request bytes to validated inputs."""
