"""Training: one step, one loop, and what feeds them."""
