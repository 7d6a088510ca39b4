"""Ports on 127.0.0.1 that stay ours while a program that we stopped is away.

A port that the kernel picks comes from the range that it also uses for outgoing connections, so while a killed
server or a disabled proxy is down any client on the machine can be given its port. These ports lie below that
range, and a reservation is a bound socket on a companion port: it excludes every other run on the machine, and
the kernel ends it with the process that holds it.
"""

import os
import random
import socket
from dataclasses import dataclass

from harness.errors import HarnessError, reason

# Below 32768, where Linux starts its ephemeral range (macOS starts at 49152).
_FIRST = 20_000
_COUNT = 6_000
_COMPANION_OFFSET = _COUNT
_TRIES = 500


@dataclass
class Reservation:
    """A port that no other reservation has; `release` it when its last user is gone."""

    port: int
    _companion: socket.socket

    def release(self) -> None:
        """Give the port back."""
        self._companion.close()


def reserve() -> Reservation:
    """Reserve a port that nothing listens on.

    Raises:
        HarnessError: no free port was found, or no file descriptor is left.
    """
    # Not the run's seed: two runs with the same seed on one machine must not meet on the same ports.
    choice = random.Random(os.urandom(8))
    for _ in range(_TRIES):
        port = _FIRST + choice.randrange(_COUNT)
        companion = _bound(port + _COMPANION_OFFSET)
        if companion is None:
            continue
        try:
            probe = _bound(port)
        except HarnessError:
            companion.close()
            raise
        if probe is not None:
            probe.close()
            return Reservation(port, companion)
        companion.close()
    raise HarnessError(
        f"no free port on 127.0.0.1 between {_FIRST} and {_FIRST + _COUNT - 1} in {_TRIES} tries: "
        "too many harness runs at once"
    )


def _bound(port: int) -> socket.socket | None:
    # Without SO_REUSEADDR: it excludes everybody else without listening, and finds no port on which connections of an
    # earlier server are left in TIME_WAIT, so that a server that does not set the option can be started there too.
    try:
        bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    except OSError as error:
        raise HarnessError(f"cannot reserve a port: {reason(error)}") from error
    try:
        bound.bind(("127.0.0.1", port))
    except OSError:
        bound.close()
        return None
    return bound
