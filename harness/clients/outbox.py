"""What a client has not settled, in a file that outlives its process."""

import os
from pathlib import Path

import msgspec

from harness.clients import protocol as p


class Settled(p.Command, frozen=True, kw_only=True):
    """In an outbox: this message is done with."""

    message: str


_kept = msgspec.json.Decoder(p.Post | Settled)


class Outbox:
    """The messages that are not settled, in a file that outlives the process."""

    def __init__(self, path: Path) -> None:
        whole, newline, _ = path.read_bytes().rpartition(b"\n") if path.exists() else (b"", b"", b"")
        self.unsettled = _unsettled(whole)
        self._file = path.open("ab", buffering=0)
        # What follows the last newline was cut by a kill: that message was never emitted.
        self._file.truncate(len(whole + newline))

    def keep(self, command: p.Post | Settled) -> None:
        """Append, and have it on disk before anything else happens."""
        self._file.write(p.encode(command) + b"\n")
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; it stays."""
        self._file.close()


def _unsettled(lines: bytes) -> list[p.Post]:
    left: dict[str, p.Post] = {}
    for line in filter(None, lines.split(b"\n")):
        command = _kept.decode(line)
        if isinstance(command, p.Post):
            left[command.message] = command
        else:
            left.pop(command.message, None)
    return list(left.values())
