"""What can go wrong, and the exit code that says so.

Every error here carries one line for a person: what is wrong, where, and what to do. Commands print that line and
exit with `exit_code`; a traceback means a bug of ours (exit code 70).
"""

from __future__ import annotations


class EffnetError(Exception):
    """Base of all errors that are told to the user in one line."""

    exit_code = 70


class ConfigError(EffnetError):
    """A configuration, an argument or an architecture that cannot be used."""

    exit_code = 2


class DataError(EffnetError):
    """A dataset, image, checkpoint or result that is broken or not what it should be."""

    exit_code = 65


class AwayError(EffnetError):
    """A server that did not answer, or not properly, while it was waited for: start the work again when it is back.

    Neither a configuration nor data is wrong, so handlers of those errors do not catch this one.
    """

    exit_code = 75


class BusyError(EffnetError):
    """Another process holds the output that this one wants to write."""

    exit_code = 73


class StoppedError(EffnetError):
    """The work was asked to stop, or lost processes that it needs: start it again to resume from what is saved."""

    exit_code = 75


class MachineError(EffnetError):
    """This machine is broken (a GPU, a disk, its memory): start the work again on another one."""

    exit_code = 76


class RunFailedError(EffnetError):
    """A child process ended without a result, though it was not asked to stop."""

    exit_code = 70


class ApprovalError(EffnetError):
    """Work that costs more than the config lets begin unasked, and nobody there to ask, or who said no."""

    exit_code = 77
