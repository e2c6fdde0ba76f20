"""What can go wrong, by what a caller can do about it."""


class Error(RuntimeError):
    """Every error of the library; by itself, one of ours: please report it."""


class InvalidArgument(Error, ValueError):
    """Something impossible was asked for."""


class NotFound(Error, FileNotFoundError):
    """A file, a tensor or a name is missing."""

    def __init__(self, *args):  # FileNotFoundError would take two arguments for a number and a text
        super().__init__(*args)


class Corrupt(Error):
    """A file is not what it says it is."""


class Unsupported(Error):
    """It is valid, but this build or this model cannot."""


class Exhausted(Error, MemoryError):
    """Memory or context do not suffice."""


class Unwritable(Error, OSError):
    """A file cannot be written."""
