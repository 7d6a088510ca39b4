"""What a server's system calls mean: which can be addressed, which can fail, and what they make durable. Pure.

Calls are given by their fingerprints, as `harness.trace` makes them: `pwrite64 store-wal 4096`, `fdatasync store-wal`,
`sendto socket`, `fcntl store-shm WRLCK 120+1`.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

Error = Literal["EIO", "ENOSPC"]

_WRITES = frozenset({"write", "pwrite64", "writev", "pwritev", "pwritev2"})
_SYNCS = frozenset({"fsync", "fdatasync"})
# The shared memory of a WAL holds no data: it is made anew after a crash.
_FILES = frozenset({"store", "store-wal", "store-journal"})


class Call(msgspec.Struct, frozen=True):
    """The `number`-th call with that fingerprint, from 1, while a message is handled.

    `before` are the calls that change the store's files and come before it in a dry run.
    """

    fingerprint: str
    number: int
    before: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.fingerprint + (f", number {self.number}" if self.number > 1 else "")


def addressed(dry_runs: Sequence[Sequence[str]]) -> list[Call]:
    """The calls that every dry run has, in the order of the first; what threads do at once comes in any order."""
    first = list(_numbered(dry_runs[0]))
    common = set.intersection(*({(name, number) for name, number in _numbered(run)} for run in dry_runs))
    return [
        Call(fingerprint, number, changes(dry_runs[0][:place]))
        for place, (fingerprint, number) in enumerate(first)
        if (fingerprint, number) in common
    ]


def changes(calls: Sequence[str]) -> tuple[str, ...]:
    """Those of the calls that change the store's files or sync them: one thread makes them, in one order."""
    return tuple(call for call in calls if _file(call) in _FILES and not call.startswith(("fcntl", "flock")))


def fails_with(call: Call, error: Error) -> bool:
    """Whether a kernel may well report that error there: on the store's own files, and no space left only on writes."""
    name = _name(call.fingerprint)
    return _file(call.fingerprint) in _FILES and (name in _WRITES or (name in _SYNCS and error == "EIO"))


def unsynced(calls: Sequence[Call]) -> Call:
    """The first sync, where a message is written and its recovery has most to do; else the last call."""
    return next((call for call in calls if _name(call.fingerprint) in _SYNCS), calls[-1])


def commit(calls: Sequence[str]) -> Call | None:
    """The call without which the transaction is not there after a crash.

    With a WAL that is the last write to it before its last sync, the commit frame; with a rollback journal its removal
    or its truncation.
    """
    last = frame = None
    for fingerprint, number in _numbered(calls):
        name, file = _name(fingerprint), _file(fingerprint)
        if file == "store-journal" and (name.startswith("unlink") or name == "ftruncate"):
            return Call(fingerprint, number)
        if file == "store-wal":
            if name in _WRITES:
                last = Call(fingerprint, number)
            elif name in _SYNCS:
                frame = last
    return frame


def is_durable(calls: Sequence[str]) -> bool:
    """Whether the store was written to, and the last write to each of its files was synced.

    The removal of a journal, by which a transaction becomes valid, counts as durable: no SQLite setting below EXTRA
    syncs it.
    """
    wrote, unsynced = False, set()
    for call in calls:
        name, file = _name(call), _file(call)
        if file not in _FILES:
            continue
        if name in _WRITES or name == "ftruncate":
            wrote = True
            unsynced.add(file)
        elif name in _SYNCS or name.startswith("unlink"):
            unsynced.discard(file)
    return wrote and not unsynced


def _numbered(calls: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Each call, with how many with its fingerprint there are up to it."""
    seen: Counter[str] = Counter()
    for call in calls:
        seen[call] += 1
        yield call, seen[call]


def _name(call: str) -> str:
    return call.partition(" ")[0]


def _file(call: str) -> str:
    return call.split()[1]
