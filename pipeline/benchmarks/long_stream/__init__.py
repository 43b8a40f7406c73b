"""What a stream costs after thousands of frames: memory, latency, files, threads.

    python -m everview.pipeline.benchmarks.long_stream --frames 10000 --size 64 --out FILE.json

Procedural frames go through the `Session` and `Feeder` of `everview stream`, write gate, foresight,
retention, snapshots and rows included. Windows of frames after the marks are compared with the
first. Goals: memory at frame 10,000 within 2 % of that at 200; p95 of the latency within 5 %.

Needs torch, numpy, pillow, safetensors, scipy and psutil, nothing else.
"""
