"""The pictures of the README; each is the output of the command named beside it there."""
