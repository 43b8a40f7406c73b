"""A streamed scene for other tools: nerfstudio, COLMAP, MeshLab, rerun."""
