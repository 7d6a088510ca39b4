"""System calls by their fingerprints: which are addressed, can fail, commit, and what a power loss spares."""

import pytest

from harness.calls import Call, addressed, changes, commit, fails_with, is_durable

ACK, BROADCAST = "sendto socket", "sendto socket"
FRAMES = ["pwrite64 store-wal 24", "pwrite64 store-wal 4096", "pwrite64 store-wal 24", "pwrite64 store-wal 4096"]
# As SQLite makes them.
WAL_FULL = ["fcntl store-shm WRLCK 120+1", *FRAMES, "fdatasync store-wal", "fcntl store-shm UNLCK 120+1", ACK]
WAL_NORMAL = [call for call in WAL_FULL if call != "fdatasync store-wal"]
ROLLBACK = [
    "fcntl store WRLCK 1073741825+1",
    *("pwrite64 store-journal 512", "pwrite64 store-journal 4096", "fdatasync store-journal"),
    *("fdatasync the store's folder", "pwrite64 store 4096", "pwrite64 store 4096", "fdatasync store"),
    *("unlink store-journal", "fcntl store UNLCK 0+0", ACK),
]
OFF = [call for call in ROLLBACK if not call.startswith("fdatasync")]
TRUNCATED = [call.replace("unlink store-journal", "ftruncate store-journal 0") for call in ROLLBACK]
CHECKPOINT = [*WAL_FULL[:-1], "pwrite64 store 4096", "fdatasync store", "ftruncate store-shm 32768", ACK]


def test_addressed_are_the_calls_of_every_run_in_the_order_of_the_first() -> None:
    """What two threads do at once comes in any order; what only one run has is no position."""
    first = ["sendto socket", "fcntl store-shm RDLCK 124+1", "sendto socket", "write file"]
    second = ["fcntl store-shm RDLCK 124+1", "sendto socket", "write eventfd 8", "sendto socket"]
    assert [(call.fingerprint, call.number) for call in addressed([first, second])] == [
        ("sendto socket", 1),
        ("fcntl store-shm RDLCK 124+1", 1),
        ("sendto socket", 2),
    ]
    assert [call.fingerprint for call in addressed([first])] == first


def test_call_says_what_the_store_has_seen_before_it() -> None:
    """Locks and what goes to others is left out: that may come at any time."""
    calls = addressed([WAL_FULL])
    assert calls[0].before == ()
    assert calls[5].before == tuple(FRAMES)
    assert calls[-1].before == (*FRAMES, "fdatasync store-wal")
    assert (str(calls[1]), str(calls[3])) == ("pwrite64 store-wal 24", "pwrite64 store-wal 24, number 2")


def test_changes_are_writes_and_syncs_of_the_stores_files() -> None:
    """Not its shared memory, which holds no data."""
    assert changes(CHECKPOINT) == (*FRAMES, "fdatasync store-wal", "pwrite64 store 4096", "fdatasync store")
    assert changes(["write file", "fsync file", "sendto socket", "flock store WRLCK 0+0"]) == ()


@pytest.mark.parametrize(
    ("fingerprint", "eio", "enospc"),
    [
        ("pwrite64 store-wal 4096", True, True),
        ("write store-journal 512", True, True),
        ("fdatasync store-wal", True, False),
        ("fsync store", True, False),
        ("fcntl store-shm UNLCK 120+1", False, False),
        ("unlink store-journal", False, False),
        ("write file", False, False),
        ("fsync file", False, False),
        ("sendto socket", False, False),
        ("write eventfd 8", False, False),
    ],
)
def test_only_writes_and_syncs_of_the_store_fail(fingerprint: str, eio: bool, enospc: bool) -> None:
    """No kernel fails an unlock or a wake-up, and a sync needs no space."""
    call = Call(fingerprint, 1)
    assert (fails_with(call, "EIO"), fails_with(call, "ENOSPC")) == (eio, enospc)


@pytest.mark.parametrize(
    ("calls", "fingerprint", "number"),
    [
        (WAL_FULL, "pwrite64 store-wal 4096", 2),
        (["pwrite64 store-wal 32", "fdatasync store-wal", *WAL_FULL], "pwrite64 store-wal 4096", 2),
        (CHECKPOINT, "pwrite64 store-wal 4096", 2),
        (ROLLBACK, "unlink store-journal", 1),
        (TRUNCATED, "ftruncate store-journal 0", 1),
    ],
)
def test_commit_is_the_call_without_which_nothing_is_there(calls: list[str], fingerprint: str, number: int) -> None:
    """The last frame before the last sync of a WAL, also behind its header; the end of a rollback journal."""
    assert commit(calls) == Call(fingerprint, number)


@pytest.mark.parametrize("calls", [[], [ACK], WAL_NORMAL, ["write file", "fsync file"]])
def test_without_a_sync_or_a_store_nothing_commits(calls: list[str]) -> None:
    """A WAL that is not synced has no frame that is known to be the last."""
    assert commit(calls) is None


@pytest.mark.parametrize("calls", [WAL_FULL, ROLLBACK, CHECKPOINT, WAL_FULL[:-1], [BROADCAST, *WAL_FULL]])
def test_what_was_synced_behind_its_last_write_is_durable(calls: list[str]) -> None:
    """Whatever else happens: a checkpoint that is synced, too, and the removal of a journal."""
    assert is_durable(calls)


@pytest.mark.parametrize(
    "calls",
    [
        *([], [ACK], WAL_NORMAL, OFF, WAL_FULL[:5], ROLLBACK[:6], TRUNCATED, CHECKPOINT[:-3]),
        [*WAL_FULL, *FRAMES],
        ["write file", "fsync file", ACK],
        [*FRAMES, "fdatasync store", ACK],
    ],
)
def test_what_was_not_written_or_not_synced_behind_its_last_write_is_not(calls: list[str]) -> None:
    """Nothing written, no sync, a sync before the last write, or of another file."""
    assert not is_durable(calls)
