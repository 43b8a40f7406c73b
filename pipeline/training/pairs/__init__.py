"""Training of pair matchers (`everview.models.pairs`) on procedural streams."""
