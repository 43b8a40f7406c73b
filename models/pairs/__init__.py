"""Two pictures of one scene: where the points of one lie in the other, how the camera moved."""
