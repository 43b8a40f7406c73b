"""The exceptions a user can meet, and the exit code each one becomes.

The codes are part of the interface (scripts test them): 0 done, 1 failed, 2 usage or
configuration, 3 input rejected, 4 environment unfit, 75 try again, 130/143 interrupted.
Messages are one sentence: what, where, what to do.
"""

import errno

from everview.datasets.errors import DataError


class EverviewError(Exception):
    """Base of the errors raised on purpose; shown without a traceback."""

    exit_code = 1


class UsageError(EverviewError):
    """A flag, a recipe or a configuration that can't be used."""

    exit_code = 2


class InputRejected(EverviewError):
    """A checkpoint, snapshot or run directory that can't be used (a capture raises DataError)."""

    exit_code = 3


class EnvironmentUnfit(EverviewError):
    """Something is missing on this machine: a package, a device, a system library."""

    exit_code = 4


class TryAgain(EverviewError):
    """A condition that passes: a directory locked by another run, a full disk."""

    exit_code = 75


def exit_code_of(error: BaseException) -> int:
    """The process exit code for `error` (1 for anything not raised on purpose)."""
    if isinstance(error, EverviewError):
        return error.exit_code
    if isinstance(error, DataError):
        return 3
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return TryAgain.exit_code
    if isinstance(error, KeyboardInterrupt):
        return 130
    return 1
