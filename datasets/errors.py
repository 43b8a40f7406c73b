"""What can be wrong with data that comes from outside, in one type."""


def printable(text: str) -> str:
    """`text` on one line, safe for a terminal.

    File names may hold line breaks, escape sequences and bytes that are no text: all are escaped.
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


class DataError(Exception):
    """Input that can't be used: one sentence, what file and what to do about it (exit code 3)."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class FileMissing(DataError):
    """A file that is named and isn't there: in a folder that is being written, not there yet."""
