"""The errors that a user can meet, and how other programs' failures are told in them.

Each is a failure of set-up, target or harness, and never a verdict.
"""

import errno
import signal


class HarnessError(Exception):
    """Something around the measured traffic failed: nothing can be said about the target's claim."""


class TargetError(HarnessError):
    """The target does not start, does not answer, or its description or its store cannot be read."""


class ToxiproxyError(HarnessError):
    """No Toxiproxy can be had, or the one in use is dead, stuck or in another state than it was told to be."""


class ClientError(HarnessError):
    """A client of the harness failed by itself, for example a connection whose tasks have died."""


def ending(status: int) -> str:
    """How a process ended, by its exit status as `subprocess` gives it (negative: the signal)."""
    return f"exited with status {status}" if status >= 0 else f"was ended by {signal.Signals(-status).name}"


def brief(printed: str) -> str:
    """The end of what another program printed, on one line."""
    return repr(" | ".join(printed.split("\n")).strip(" |")[-400:]) if printed.strip() else "nothing"


def reason(error: OSError) -> str:
    """What the system says, and what helps where that is known."""
    said = error.strerror or str(error)
    return f"{said} (see `ulimit -n`)" if error.errno in (errno.EMFILE, errno.ENFILE) else said


def root_cause(error: BaseException) -> str:
    """What went wrong first: the layers above it only repeat it, at length."""
    while error.__context__ is not None:
        error = error.__context__
    return (reason(error) if isinstance(error, OSError) else str(error)) or type(error).__name__
