"""The errors that a user can meet. Each is a failure of set-up, target or harness, and never a verdict."""


class HarnessError(Exception):
    """Something around the measured traffic failed: nothing can be said about the target's claim."""


class TargetError(HarnessError):
    """The target does not start, does not answer, or its description or its store cannot be read."""


class ToxiproxyError(HarnessError):
    """No Toxiproxy can be had, or the one in use is dead, stuck or in another state than it was told to be."""


class ClientError(HarnessError):
    """A client of the harness failed by itself, for example a connection whose tasks have died."""
