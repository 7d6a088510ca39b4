"""Ports on 127.0.0.1 that stay ours while a program that we stopped is away.

A port that the kernel picks comes from the range that it also uses for outgoing connections, so while a killed
server or a disabled proxy is down any client on the machine can be given its port. These ports lie below that
range, and a reservation is a bound socket on a companion port: it excludes every other run on the machine, and
the kernel ends it with the process that holds it.
"""

import os
import random
import socket
from collections.abc import Callable
from dataclasses import dataclass

from harness.errors import HarnessError, reason

# Below 32768, where Linux starts its ephemeral range (macOS starts at 49152).
_FIRST = 20_000
_COUNT = 6_000
_COMPANION_OFFSET = _COUNT
_TRIES = 500


@dataclass
class Reservation:
    """A port that no other reservation has; `release` it, which gives it back, when its last user is gone."""

    port: int
    release: Callable[[], None]


class Pool:
    """Ports that are reserved at one time, to be handed out and taken back: what is published is so from a start on."""

    def __init__(self, count: int) -> None:
        """Reserve that many.

        Raises:
            HarnessError: there are not so many.
        """
        self._count = count
        self._reserved: list[Reservation] = []
        try:
            for _ in range(count):
                self._reserved.append(reserve())
        except HarnessError:
            self.release()
            raise
        self.ports = [reservation.port for reservation in self._reserved]
        self._free = list(self.ports)

    def reserve(self) -> Reservation:
        """One of them that nobody has; of these the one that was given back first.

        Raises:
            HarnessError: all are in use.
        """
        if not self._free:
            raise HarnessError(f"more than {self._count} ports at once, and no more are published")
        port = self._free.pop(0)
        return Reservation(port, lambda: self._free.append(port))

    @property
    def has_room(self) -> bool:
        """Whether nobody has one of them."""
        return bool(self._free)

    def release(self) -> None:
        """Give all of them back."""
        for reservation in self._reserved:
            reservation.release()


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
            return Reservation(port, companion.close)
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
