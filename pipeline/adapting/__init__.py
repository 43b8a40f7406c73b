"""Adaptation: the slow weights tuned to one capture by its own inputs."""
