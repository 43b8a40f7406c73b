"""One file per format. Each has `FORMAT` (its name, as said to the user), `find` and `read`.

find(path) -> Path | None: the index, if `path` (file or folder) is of this format; a look, no more.
read(source, index, options) -> Capture.
"""
