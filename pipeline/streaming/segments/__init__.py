"""Segments: a stream that leaves what its gauge covers, or what its bank keeps of things that move,
goes on in a new state beside the old."""
