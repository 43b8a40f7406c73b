"""A live stream: frames in, a scene memory that can be looked into while it is being written."""
