"""The ledger: servers and clients that are broken on purpose, and the anomaly that each must be caught with.

Each entry is a folder with `target.toml` and `server.py` or `client.py`, which is right but for the one mistake that
its docstring names. What it claims is what it would keep without that mistake. The entries whose mistake is one of the
store promise nothing to receivers, so that a row that is lost, doubled or late counts once, in the store.

Plain data: it imports nothing of the harness, as the servers beside it run with this package and without that.
"""

from pathlib import Path
from typing import Literal, NamedTuple

Hop = Literal["client", "link", "server", "store", "receiver"]


class Entry(NamedTuple):
    """One broken server or client. `case` is the scenario that has to catch it, by its id; others may, too.

    `anomaly` is the kind that this case has to show, and no other. `hop` is where messages go wrong: in the client,
    with the connection, in the server, in the store, or on the way to the receivers.
    """

    name: str
    anomaly: str
    hop: Hop
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
        hop="server",
        case="pair-lock-kill-python-websocket",
        mistake="The insert runs in a background task that nobody waits for; the acknowledgement leaves at once.",
        why="The lock is held before the message is posted and outlasts the insert's 0.2 s of waiting: acknowledged at"
        " once, then the insert fails in the background. A kill while locked loses the message too.",
    ),
    Entry(
        name="acknowledges_any_error",
        anomaly="lost",
        hop="store",
        case="pair-lock-cut-python-websocket",
        mistake="`except sqlite3.Error` was meant for the unique constraint and acknowledges every other error too.",
        why="The lock outlasts the insert's 0.2 s of waiting: OperationalError, acknowledged, no row, no resend.",
    ),
    Entry(
        name="swallows_lock",
        anomaly="lost",
        hop="store",
        case="lock-long-python-websocket",
        mistake="A helper suppresses `database is locked`, tries three times and returns as if the row were stored.",
        why="The lock outlasts three tries of 0.2 s: acknowledged within the ack timeout of 1 s, no row, no resend.",
    ),
    Entry(
        name="no_unique_constraint",
        anomaly="duplicate",
        hop="store",
        case="ack-lost-one-python-websocket",
        mistake="The table has no unique constraint on the offset that the handler relies on.",
        why="The row is there and its acknowledgement was cut, so the sender resends, and every resend is a new row.",
    ),
    Entry(
        name="deduplicates_in_memory",
        anomaly="duplicate",
        hop="server",
        case="crash-after-commit-python-websocket",
        mistake="The offsets that were seen are kept in a set, which is empty after a restart.",
        why="The row is there and the server killed before the acknowledgement passed: the resend meets an empty set."
        " Without the kill the same resend is recognised: a lost acknowledgement alone shows nothing.",
    ),
    Entry(
        name="deduplicates_per_connection",
        anomaly="duplicate",
        hop="link",
        case="ack-lost-one-python-websocket",
        mistake="The offset is unique within a connection only.",
        why="The row is there and its acknowledgement was cut: the resend comes on a new connection, with a new sid.",
    ),
    Entry(
        name="task_per_event",
        anomaly="reordered",
        hop="server",
        case="baseline-pipelined-python-websocket",
        mistake="Each event is a task of its own, and moderation before the insert takes longer for longer messages.",
        why="Pipelined on one connection, 1 ms of moderation per character, at most 300: a message overtakes the one"
        " before it if it is shorter by more than the milliseconds between them (say 50 characters).",
    ),
    Entry(
        name="truncates_content",
        anomaly="corrupted",
        hop="store",
        case="baseline-one-python-websocket",
        mistake="The content is cut to 255 characters before it is stored, and acknowledged.",
        why="Every message of more than 255 characters is stored short, without any fault.",
    ),
    Entry(
        name="broadcasts_before_commit",
        anomaly="repeated",
        hop="receiver",
        case="pair-lock-cut-python-websocket",
        mistake="Everybody is told before the row is written, under an id from the clock.",
        why="The lock makes the first attempt's insert fail after its broadcast, and each later attempt broadcasts"
        " again until one is stored: the receiver that nobody disturbs gets the message at least twice.",
    ),
    Entry(
        name="replay_skips",
        anomaly="missed",
        hop="receiver",
        case="ack-lost-one-python-websocket",
        mistake="The replay selects `id > serverOffset + 1`.",
        why="The row is stored while the second receiver is cut off, and is the first one after its offset: the replay"
        " starts behind it.",
    ),
    Entry(
        name="gives_up_silently",
        anomaly="silent_drop",
        hop="client",
        case="client-patient-python-websocket",
        mistake="A client drops a message after three tries, tells nobody, and sends the next one.",
        why="The lock outlasts three ack timeouts: the message is dropped, and the one after it is stored and"
        " acknowledged.",
    ),
    Entry(
        name="sends_ahead",
        anomaly="reordered",
        hop="client",
        case="client-patient-python-websocket",
        mistake="A client sends each message in a task of its own, again and again, and waits for none of them.",
        why="The lock ends between two sends of the first message: the one that is posted then is stored before it.",
    ),
    Entry(
        name="forgets_too_soon",
        anomaly="duplicate",
        hop="server",
        case="freeze-downstream-python-websocket",
        mistake="The table of offsets that were seen forgets each after half an ack timeout.",
        why="The answer is held for 1.2 ack timeouts, so the resend comes one ack timeout after the row: its offset has"
        " expired. A lost acknowledgement alone shows nothing: its resend comes at once.",
    ),
    Entry(
        name="remembers_few",
        anomaly="duplicate",
        hop="server",
        case="stream-latency-5-python-websocket",
        mistake="Only the 30 offsets that were stored last are remembered, and no constraint stands behind them.",
        why="While the first sender waits one ack timeout for its answer, the four others have about 100 stored:"
        " the resend's offset is none of the last 30. With one sender its own last message is always among them.",
    ),
    Entry(
        name="writes_behind",
        anomaly="lost",
        hop="server",
        case="stream-kills-1-python-websocket",
        mistake="Messages are acknowledged when they are in memory, and written together once a second.",
        why="The first 51 messages take much less than that second: the kill finds nearly all of them in memory,"
        " acknowledged. A graceful stop writes them, and a lock only delays them.",
    ),
    Entry(
        name="requeues_failed_batch",
        anomaly="reordered",
        hop="server",
        case="stream-locks-5-python-websocket",
        mistake="A batch that fails goes to the end of the queue, behind messages that were acknowledged meanwhile.",
        why="The lock outlasts the 0.2 s of waiting of a batch, and in these the other senders, acknowledged by the"
        " journal, have queued their next messages: those overtake the batch. The journal survives every kill.",
    ),
    Entry(
        name="retries_by_itself",
        anomaly="reordered",
        hop="server",
        case="at-most-once-lock-python-websocket",
        mistake="The handler tries a message that failed again a second later, and later messages do not wait for it.",
        why="The lock is over half an ack timeout after the message and 0.7 s before its second try, and the next"
        " message is emitted then. A sender that waits for its acknowledgement sees nothing of it.",
    ),
    Entry(
        name="checks_then_inserts",
        anomaly="duplicate",
        hop="store",
        case="pause-short-python-websocket",
        mistake="The handler selects the offset, awaits something for 50 ms, and inserts without a constraint.",
        why="Paused for two ack timeouts, the server finds the message and its resends in one read: all of them ask"
        " before the first is stored. A resend on its own is always recognised.",
    ),
    Entry(
        name="worker_dies",
        anomaly="stuck",
        hop="server",
        case="pair-lock-cut-python-websocket",
        mistake="The one worker that stores everything ends with the first error of the database.",
        why="The lock outlasts the insert's 0.2 s of waiting: the worker is gone, and neither a resend nor a new"
        " connection is answered any more.",
    ),
    Entry(
        name="leaves_transaction_open",
        anomaly="lost",
        hop="store",
        case="ack-lost-one-python-websocket",
        mistake="The early return for a duplicate skips the end of its transaction, and no later commit is one.",
        why="The acknowledgement is lost and the resend a duplicate: what the sender sends behind it is"
        " acknowledged in a transaction that is rolled back when the server stops.",
    ),
    Entry(
        name="exits_on_store_error",
        anomaly="crashed",
        hop="server",
        case="pair-lock-restart-python-websocket",
        mistake="Every error of the database but the unique constraint ends the process.",
        why="The lock outlasts the insert's 0.2 s of waiting: the server exits before it is restarted. The restart"
        " then makes it serve again, so that nothing is stuck.",
    ),
    Entry(
        name="caches_answers_too_early",
        anomaly="lost",
        hop="server",
        case="disk-full-python-websocket",
        mistake="The answer is cached before the commit, and stays in the cache when the commit fails.",
        why="The first attempt finds no space and is rolled back, unanswered; the resend one ack timeout later is"
        " answered from the cache.",
    ),
    Entry(
        name="broadcasts_no_resend",
        anomaly="missed",
        hop="receiver",
        case="lock-exclusive-python-websocket",
        mistake="A message that was tried before is not broadcast, whether it was stored then or not.",
        why="The lock outlasts the first attempt's 0.2 s of waiting, and a resend is stored: the receiver that nobody"
        " disturbs is told nothing, and never reconnects for a replay.",
    ),
    Entry(
        name="replays_one_page",
        anomaly="missed",
        hop="receiver",
        case="stream-latency-5-python-websocket",
        mistake="The replay has a limit of 30 rows, and nothing asks for the next ones.",
        why="While the first sender waits for its late answer the four others have about 100 messages stored, and the"
        " second receiver is cut off: it is sent the first 30 of them, and then what is new.",
    ),
    Entry(
        name="previews_first",
        anomaly="misordered",
        hop="receiver",
        case="baseline-one-python-websocket",
        mistake="Each message is broadcast in a background task of its own, after a look-up.",
        why="The look-up takes 1 ms per character, at most 300: among messages of all kinds that follow each other"
        " within milliseconds many are overtaken by a shorter one on the way to both receivers.",
    ),
    Entry(
        name="waits_for_dead_lease",
        anomaly="slow_recovery",
        hop="server",
        case="pair-blackhole-kill-python-websocket",
        mistake="After a kill the server waits until the lease of its dead predecessor has run out.",
        why="The lease of 5 s was prolonged when the message before was stored, about a second before the restarted"
        " server listens: it answers some 4 s after that, and claims 0.5 s.",
    ),
    Entry(
        name="shortens_broadcasts",
        anomaly="corrupted",
        hop="receiver",
        case="baseline-one-python-websocket",
        mistake="Live broadcasts carry the first 60 characters of a message; the rows are whole.",
        why="Every receiver that is connected gets a long message short, without any fault.",
    ),
    Entry(
        name="new_offset_per_retry",
        anomaly="duplicate",
        hop="client",
        case="client-frozen-python-websocket",
        mistake="A client makes a new offset for each try, so that the server cannot know a resend.",
        why="The client stands still for longer than its ack timeout, and the server has stored the message by then:"
        " the resend is another message for it.",
    ),
    Entry(
        name="offset_before_connect",
        anomaly="lost",
        hop="client",
        case="client-early-python-websocket",
        mistake="A client makes offsets of its connection's id, which before the first connection is `undefined`.",
        why="Two clients are each given a message before they are connected: both have the offset `undefined-0`, and"
        " the second is acknowledged as stored already.",
    ),
    Entry(
        name="timeout_is_failure",
        anomaly="aborted_read",
        hop="client",
        case="client-frozen-python-websocket",
        mistake="A client takes the ack timeout for a failure, and says that nothing was sent.",
        why="The client stands still for longer than its ack timeout, and the server has stored the message by then.",
    ),
    Entry(
        name="announces_itself",
        anomaly="unexpected",
        hop="client",
        case="client-early-python-websocket",
        mistake="A client sends a greeting with each connection, with an identity like that of a message.",
        why="Each connection leaves a row that nobody has posted, without any fault.",
    ),
    Entry(
        name="retracts_broadcasts",
        anomaly="phantom",
        hop="receiver",
        case="at-most-once-lock-python-websocket",
        mistake="Everybody is told first, and an event to which nobody listens takes back what could not be stored.",
        why="The lock outlasts the insert's 0.2 s of waiting, and a plain emit is not sent again: every receiver has a"
        " message that is in no row.",
    ),
    Entry(
        name="ignores_duplicates",
        anomaly="false_failure",
        hop="server",
        case="exactly-once-constraint-python-websocket",
        mistake="A message that is stored already is ignored, and its resend is not answered.",
        why="The row is there and the server killed before its answer: the three further tries are ignored, and the"
        " sender is told a failure. That breaks no claim and is reported; a sender that never gives up is stuck.",
    ),
    Entry(
        name="buffers_per_connection",
        anomaly="lost",
        hop="link",
        case="cut-middle-python-websocket",
        mistake="Messages are acknowledged into a buffer of their connection, which is thrown away when that ends.",
        why="The message before the one that is cut was acknowledged less than half a second ago: it is in the buffer.",
    ),
    Entry(
        name="never_syncs",
        anomaly="not_durable",
        hop="store",
        case="kill-answered-python-websocket",
        mistake="`synchronous = OFF`: nothing that is written is ever synced.",
        why="Between the last write to the WAL and the acknowledgement there is no sync among the server's calls.",
    ),
    Entry(
        name="syncs_later",
        anomaly="not_durable",
        hop="store",
        case="kill-answered-python-websocket",
        mistake="Acknowledges after the write and before the sync, which a checkpoint does for all, once a second.",
        why="When the acknowledgement leaves, the last write to the WAL is not synced.",
    ),
    Entry(
        name="undoes_unfinished",
        anomaly="lost",
        hop="server",
        case="syscall-kill-python-websocket",
        mistake="A note of each message is removed after the acknowledgement; a start deletes what it finds noted.",
        why="Right but at one system call: killed at the removal of the note, the next start deletes a row whose sender"
        " has its acknowledgement. No other moment loses anything.",
    ),
)
