"""What can be wrong with data that comes from outside, in one type."""


class DataError(Exception):
    """Input that can't be used: one sentence that names the file and says what to do (exit code 3)."""
