"""Cameras for frames that come without: RGB-D odometry, and how far found poses are from known."""
