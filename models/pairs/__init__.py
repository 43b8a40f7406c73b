"""Two pictures of one scene: where each point of one lies in the other, and how the camera moved."""
