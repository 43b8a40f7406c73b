"""The write gate: what may change the memory."""
