"""Published weights: one folder a name, with a card. Loaded by `everview.models.weight_files`."""

DEFAULT_WEIGHTS = "base"
