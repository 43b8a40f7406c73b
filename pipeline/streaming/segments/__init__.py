"""Segments: a walk that leaves what its gauge covers goes on in a new state beside the old."""
