"""Files that describe Ray clusters for everview's jobs; see the README beside them."""
