"""Where a stream's frames come from: captures, folders being filled, cameras, sockets, code."""
