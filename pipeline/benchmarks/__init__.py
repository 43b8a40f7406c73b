"""Benchmarks as commands: `everview bench`. Each checks its results before it prints a time."""
