"""From depth maps to geometry: a voxel-downsampled point cloud (numpy) and a mesh (Open3D)."""
