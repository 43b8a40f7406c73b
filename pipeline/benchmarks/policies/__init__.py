"""What each policy of a stream gains on loops: `python -m everview.pipeline.benchmarks.policies`."""
