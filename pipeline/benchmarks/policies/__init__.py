"""What policies of a stream gain on loops: `python -m everview.pipeline.benchmarks.policies`."""
