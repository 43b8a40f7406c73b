"""Sources into shards: captures, meshes and videos become one verified set of posed scenes."""
