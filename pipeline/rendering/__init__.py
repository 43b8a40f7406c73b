"""From a state to pictures: camera paths, a batched renderer, stills, depth, video and PLY."""
