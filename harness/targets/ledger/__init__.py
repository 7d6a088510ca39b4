"""The ledger: servers and clients that are broken on purpose, and the anomaly that each must be caught with.

Each entry is a folder with `target.toml` and `server.py`: a server that is right but for the one mistake that its
docstring names. What it claims is what it would keep without that mistake. The six entries that lose or double rows
promise nothing to receivers, so that a row stored twice counts once, in the store.

Plain data: it imports nothing of the harness, as the servers beside it run with this package and without that.
"""

from pathlib import Path
from typing import Literal, NamedTuple

Family = Literal["baseline", "cut", "ack-lost", "kill", "crash", "restart", "lock", "pair", "client"]


class Entry(NamedTuple):
    """One broken server. `case` is the scenario that has to catch it, by its id; others may, too."""

    name: str
    anomaly: str
    family: Family
    case: str
    mistake: str
    why: str

    @property
    def target(self) -> Path:
        """The target description."""
        return Path(__file__).parent / self.name / "target.toml"


ENTRIES = (
    Entry(
        name="acknowledges_before_commit",
        anomaly="lost",
        family="pair",
        case="pair-lock-kill-python-websocket",
        mistake="The insert runs in a background task that nobody waits for; the acknowledgement leaves at once.",
        why="The lock is held before the message is posted and outlasts the insert's 0.2 s of waiting: acknowledged at"
        " once, then the insert fails in the background. A kill while locked loses the message too.",
    ),
    Entry(
        name="acknowledges_any_error",
        anomaly="lost",
        family="pair",
        case="pair-lock-cut-python-websocket",
        mistake="`except sqlite3.Error` was meant for the unique constraint and acknowledges every other error too.",
        why="The lock outlasts the insert's 0.2 s of waiting: OperationalError, acknowledged, no row, no resend.",
    ),
    Entry(
        name="swallows_lock",
        anomaly="lost",
        family="lock",
        case="lock-long-python-websocket",
        mistake="A helper suppresses `database is locked`, tries three times and returns as if the row were stored.",
        why="The lock outlasts three tries of 0.2 s: acknowledged within the ack timeout of 1 s, no row, no resend.",
    ),
    Entry(
        name="no_unique_constraint",
        anomaly="duplicate",
        family="ack-lost",
        case="ack-lost-one-python-websocket",
        mistake="The table has no unique constraint on the offset that the handler relies on.",
        why="The row is there and its acknowledgement was cut, so the sender resends, and every resend is a new row.",
    ),
    Entry(
        name="deduplicates_in_memory",
        anomaly="duplicate",
        family="crash",
        case="crash-after-commit-python-websocket",
        mistake="The offsets that were seen are kept in a set, which is empty after a restart.",
        why="The row is there and the server killed before the acknowledgement passed: the resend meets an empty set."
        " Without the kill the same resend is recognised: a lost acknowledgement alone shows nothing.",
    ),
    Entry(
        name="deduplicates_per_connection",
        anomaly="duplicate",
        family="ack-lost",
        case="ack-lost-one-python-websocket",
        mistake="The offset is unique within a connection only.",
        why="The row is there and its acknowledgement was cut: the resend comes on a new connection, with a new sid.",
    ),
    Entry(
        name="task_per_event",
        anomaly="reordered",
        family="baseline",
        case="baseline-pipelined-python-websocket",
        mistake="Each event is a task of its own, and moderation before the insert takes longer for longer messages.",
        why="Pipelined on one connection, 1 ms of moderation per character, at most 300: a message overtakes the one"
        " before it if it is shorter by more than the milliseconds between them (say 50 characters).",
    ),
    Entry(
        name="truncates_content",
        anomaly="corrupted",
        family="baseline",
        case="baseline-one-python-websocket",
        mistake="The content is cut to 255 characters before it is stored, and acknowledged.",
        why="Every message of more than 255 characters is stored short, without any fault.",
    ),
    Entry(
        name="broadcasts_before_commit",
        anomaly="repeated",
        family="pair",
        case="pair-lock-cut-python-websocket",
        mistake="Everybody is told before the row is written, under an id from the clock.",
        why="The lock makes the first attempt's insert fail after its broadcast, and each later attempt broadcasts"
        " again until one is stored: the receiver that nobody disturbs gets the message at least twice.",
    ),
    Entry(
        name="replay_skips",
        anomaly="missed",
        family="ack-lost",
        case="ack-lost-one-python-websocket",
        mistake="The replay selects `id > serverOffset + 1`.",
        why="The row is stored while the second receiver is cut off, and is the first one after its offset: the replay"
        " starts behind it.",
    ),
    Entry(
        name="gives_up_silently",
        anomaly="silent_drop",
        family="client",
        case="client-patient-python-websocket",
        mistake="A client drops a message after three tries, tells nobody, and sends the next one.",
        why="The lock outlasts three ack timeouts: the message is dropped, and the one after it is stored and"
        " acknowledged.",
    ),
    Entry(
        name="sends_ahead",
        anomaly="reordered",
        family="client",
        case="client-patient-python-websocket",
        mistake="A client sends each message in a task of its own, again and again, and waits for none of them.",
        why="The lock ends between two sends of the first message: the one that is posted then is stored before it.",
    ),
)
