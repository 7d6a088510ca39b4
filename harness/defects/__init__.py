"""The known defects of the tutorial's application and of python-socketio: what is known of each, and its scenario.

A defect is shown by a control: the tutorial's own pair of client and server (or the stock Python one) has to show
exactly its anomalies, and the hardened pair has to keep its claim under the same schedule.
"""

from collections.abc import Callable
from typing import Literal

import msgspec

from harness import history as h
from harness.checker import Kind
from harness.scenario import ATTRIBUTE, Control, Scenario, Schedule

ITEM = "test_known_defect"
"""The name under which every defect is a pytest item: `test_known_defect[A1]`."""


class Defect(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one defect.

    `shows` are the anomalies that its pair shows, none where it has to hold; `schedule`, `happens` and `remedy` are
    what the table in the README says; `upstream` is the thread of the library's project, where one was found.
    """

    id: str
    schedule: str
    happens: str
    shows: tuple[Kind, ...]
    cause: str
    remedy: str
    upstream: str | None = None

    @property
    def of_python(self) -> bool:
        """Whether it is one of python-socketio, and not of the tutorial's application."""
        return self.id.startswith("P")

    @property
    def title(self) -> str:
        """All of it in a few sentences."""
        upstream = f" Upstream: {self.upstream}" if self.upstream is not None else ""
        return f"{self.schedule[0].upper()}{self.schedule[1:]}: {self.happens}. {self.cause}{upstream}"

    @property
    def command(self) -> str:
        """What shows it."""
        return f"pytest scenarios -k 'defect[{self.id}]'"


_NO_LIMIT = "no limit of tries: `retries: Infinity` and an outbox, or a told failure"

DEFECTS = {
    defect.id: defect
    for defect in (
        Defect(
            id="A1",
            schedule="the link is cut within the message, four times in a row",
            happens="the message is dropped without a word, and the next one is stored: a hole",
            shows=("silent_drop",),
            cause="`retries: 3` counts a disconnect as a failed try; after the fourth the packet is discarded, and only"
            " a callback, which the tutorial does not pass, would tell.",
            remedy=_NO_LIMIT,
        ),
        Defect(
            id="A2",
            schedule="the network falls silent when both ends have just heard from each other, and a message is sent",
            happens="all four tries are spent before the heartbeat notices: dropped without a word",
            shows=("silent_drop",),
            cause="Four ack timeouts of 10 s are shorter than the 45 s until a dead connection is noticed.",
            remedy=_NO_LIMIT,
        ),
        Defect(
            id="A3",
            schedule="the server stands still for a little more than four ack timeouts",
            happens="the sender is told that its message failed; it is stored, once",
            shows=("false_failure",),
            cause="What was sent waits in the server's socket, and is handled when it goes on; the client gave up.",
            remedy="an error from `retries` means unknown, not failed: ask again with the same offset",
            upstream="https://github.com/socketio/socket.io/issues/5334",
        ),
        Defect(
            id="A5",
            schedule="somebody holds a write lock on the database past the fourth try",
            happens="dropped without a word, and the next one is stored",
            shows=("silent_drop",),
            cause="The server leaves every database error but the constraint unanswered, and the client's tries end.",
            remedy=_NO_LIMIT,
        ),
        Defect(
            id="A6",
            schedule="the same lock, released before the last try ends",
            happens="stored once, late: holds",
            shows=(),
            cause="One of the four tries meets a database that is free again.",
            remedy="nothing: this is what `retries` is for",
        ),
        Defect(
            id="A7",
            schedule="the disk is full for as long as there are tries",
            happens="dropped without a word, and the next one is stored",
            shows=("silent_drop",),
            cause="As A5: any error of the database is answered by silence.",
            remedy=_NO_LIMIT,
        ),
        Defect(
            id="A8",
            schedule="two clients emit before they are connected for the first time",
            happens="both messages have the offset `undefined-0`: the second is acknowledged and never stored",
            shows=("lost",),
            cause="`${socket.id}-${counter}` is made when the form is sent, and there is no id yet.",
            remedy="a random offset (`crypto.randomUUID()`); a server that compares the content, too",
        ),
        Defect(
            id="A10",
            schedule="the page is reloaded while messages are on their way and in the queue",
            happens="all of them are gone, and nobody is told",
            shows=("silent_drop",),
            cause="The queue of `retries` is in the memory of the page.",
            remedy="an outbox in storage that outlives the page (IndexedDB, a file)",
        ),
        Defect(
            id="A12",
            schedule="`retries` without `ackTimeout`, and a server that calls back with no argument",
            happens="four sends and four acknowledgements of a message, one row, and its sender is told it failed",
            shows=("false_failure",),
            cause="Without a timeout the first argument of the callback counts as an error if it is not `null`.",
            remedy="always set `ackTimeout` with `retries`",
            upstream="https://github.com/socketio/socket.io/issues/4897",
        ),
        Defect(
            id="A13",
            schedule="a client emits without `retries` and without a callback",
            happens="the message is stored, then the server dies: `callback is not a function`",
            shows=("crashed",),
            cause="An exception in an async handler is an unhandled rejection, which ends Node.",
            remedy="call back only if it is a function; catch what handlers throw",
            upstream="https://github.com/socketio/socket.io/issues/2178",
        ),
        Defect(
            id="A14",
            schedule="a message is larger than `maxHttpBufferSize` (1 MB)",
            happens="each of four tries ends the connection; dropped without a word, and the next one is stored",
            shows=("silent_drop",),
            cause="The server closes the connection of a packet that is too large, and the client sends it again.",
            remedy="a limit in the client below that of the server; a larger `maxHttpBufferSize`",
            upstream="https://github.com/socketio/engine.io/issues/706",
        ),
        Defect(
            id="A16",
            schedule="the handler of a message stands still past all tries, before its INSERT",
            happens="the next message is stored first: out of order, and the first sender was told a failure",
            shows=("reordered", "false_failure"),
            cause="Nothing waits for the handlers of one client: an old one goes on after its client gave up.",
            remedy="one handler at a time for each client, and no limit of tries",
        ),
        Defect(
            id="A17",
            schedule="the server is killed between its INSERT and its broadcast, and started again",
            happens="one row; the resend is acknowledged through the constraint: holds",
            shows=(),
            cause="The constraint error tells that an earlier attempt has stored the message.",
            remedy="nothing: this is what the constraint is for",
        ),
        Defect(
            id="A19",
            schedule="the database reports an error of an INSERT that it has stored, and the message is sent again",
            happens="acknowledged through the constraint, never broadcast: connected receivers miss it for good",
            shows=("missed",),
            cause="Only the attempt whose INSERT succeeds broadcasts; the one that meets the constraint does not.",
            remedy="broadcast what is in the table, not what a handler has just done",
        ),
        Defect(
            id="A20",
            schedule="several INSERTs wait for a lock, and it is released when one of them has just given up",
            happens="the next one succeeds, is broadcast and acknowledged, and is rolled back: it is nowhere",
            shows=("lost", "phantom"),
            cause="sqlite3 runs the statements of one connection in several threads: one that is busy and not yet"
            " finalized keeps the next from its commit, and takes it along when it ends.",
            remedy="one statement at a time on a connection that writes, or an explicit transaction for each",
        ),
        Defect(
            id="B1",
            schedule="a receiver's way back is cut behind the first missed messages, before the end of its recovery",
            happens="it gets what it had been sent of them twice",
            shows=("repeated",),
            cause="Missed packets are sent before CONNECT and kept by the client; the next recovery sends them again.",
            remedy="remove duplicates by the row's id in the receiver",
        ),
        Defect(
            id="B2",
            schedule="a receiver joins when a row is there and not yet broadcast, and is sent the rows a little later",
            happens="the live message overtakes the rows before it, and comes twice",
            shows=("misordered", "repeated"),
            cause="Replay and live messages are two streams, and nothing stands between them.",
            remedy="a barrier: hold live messages back until the replay is sent; remove duplicates by id",
        ),
        Defect(
            id="B3",
            schedule="a receiver that was sent a live message before its rows is cut right behind it, without recovery",
            happens="its offset is past the rows that it never got: they never come",
            shows=("missed",),
            cause="The page keeps the offset of the latest message, whatever it has not got before it.",
            remedy="the barrier of B2: then the highest offset means that everything below it has come",
        ),
        Defect(
            id="B4",
            schedule="several clients write at once, and the handler of one stands between its row and its broadcast",
            happens="messages are broadcast in another order than that of their rows",
            shows=("misordered",),
            cause="Each handler broadcasts when its own INSERT has called back, in whatever order that is.",
            remedy="one publisher that follows the table",
        ),
        Defect(
            id="P1",
            schedule="over polling, the response to a receiver's poll is cut in its head",
            happens="what it carried is lost for good: a hole, and no `disconnect` event",
            shows=("missed",),
            cause="aiohttp's client sends a GET again by itself; a poll takes packets out of the server's queue.",
            remedy="WebSocket only; or a session whose hidden retry is switched off",
            upstream="https://github.com/aio-libs/aiohttp/issues/10790",
        ),
        Defect(
            id="P2",
            schedule="over polling, the response to a receiver's poll is cut in its body",
            happens="the client stays connected for ever, and nothing arrives any more",
            shows=("missed",),
            cause="The error is raised outside the guarded call and ends the read loop, and nobody notices.",
            remedy="WebSocket only; or read the body where the request is guarded",
        ),
        Defect(
            id="P3",
            schedule="over polling, the response to the handshake of a reconnect is cut in its body",
            happens="the client never connects again, and says nothing",
            shows=("stuck",),
            cause="The same error ends the reconnect task.",
            remedy="WebSocket only; or a reconnect of one's own",
        ),
        Defect(
            id="P4",
            schedule="the upgrade to WebSocket is cut within its probe (python-engineio's server)",
            happens="every poll is answered with NOOP at once; the client is never connected",
            shows=("stuck",),
            cause="The server waits for the end of an upgrade that has failed, and gives polls nothing meanwhile.",
            remedy="one transport only",
            upstream="https://github.com/miguelgrinberg/python-socketio/issues/1357",
        ),
        Defect(
            id="P5",
            schedule="a server with a ping interval of 0.9 s, and a client that does nothing",
            happens="its connection is dropped again and again, and an emit in between fails",
            shows=("lost",),
            cause="The interval is cut to whole seconds before it is told to the client: 0.",
            remedy="whole seconds",
        ),
        Defect(
            id="P6",
            schedule="over polling, a client disconnects and connects again",
            happens="it is away until the poll that is pending has ended, up to half a minute",
            shows=("stuck",),
            cause="`disconnect()` waits for the poll that is pending.",
            remedy="WebSocket only; or tear the connection down",
        ),
        Defect(
            id="P7",
            schedule="over polling, more than 16 emits in one request",
            happens="the request is rejected whole, and nobody is told",
            shows=("lost",),
            cause="`Payload.max_decode_packets` is 16, and a payload with more is rejected whole.",
            remedy="raise it, in the server and in the client",
            upstream="https://github.com/miguelgrinberg/python-engineio/issues/142",
        ),
        Defect(
            id="P8",
            schedule="over polling, a message of 600,000 characters, on aiohttp",
            happens="it is not stored, and its request is answered with 200",
            shows=("lost",),
            cause="The server takes what one read of the request's body returns for all of it.",
            remedy="WebSocket only; or read the body to its end",
            upstream="https://github.com/miguelgrinberg/python-socketio/issues/368",
        ),
    )
}


def table() -> str:
    """The table of the README, in Markdown."""
    lines = [
        "| | schedule | what happens | shows | what to do about it | command |",
        "|---|---|---|---|---|---|",
    ]
    for defect in DEFECTS.values():
        shows = ", ".join(f"`{kind}`" for kind in defect.shows) or "holds"
        happens = f"{defect.happens} ([upstream]({defect.upstream}))" if defect.upstream else defect.happens
        cells = (defect.id, defect.schedule, happens, shows, defect.remedy, f"`{defect.command}`")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def known_defect(
    number: str,
    *,
    policy: h.Policy = "tutorial",
    claims_policy: h.Policy | None = None,
    guarantee: h.Guarantee | None = None,
    server: str | None = None,
    transport: Literal["websocket", "polling", "upgrade"] = "websocket",
    clients: tuple[str, str] | None = None,
    targets: tuple[str, str] | None = None,
    tries: int = 1,
    order: h.Order | None = None,
    has_null: bool = True,
    linux: bool = False,
) -> Callable[[Schedule], Schedule]:
    """Declare a schedule as that of a known defect.

    The tutorial's client and server (stock python-socketio for a defect of Python's) run it as a control that has to
    show exactly the defect's anomalies, the hardened client and server as a claim.

    Args:
        number: of the defect, as in `DEFECTS`.
        policy: of the tutorial's client.
        claims_policy: of the hardened client, where it is not to send until there is an acknowledgement.
        guarantee: what that policy can keep.
        server: the tutorial's server with this switch.
        transport: over which both run.
        clients: the one that has to show it and the hardened one, where they are not those of its kind.
        targets: likewise.
        tries: how often the schedule is tried until it shows, where that needs luck.
        order: by which the tutorial's run is judged.
        has_null: whether the schedule without its fault has to show nothing.
        linux: it needs something that only Linux has.
    """
    defect = DEFECTS[number]
    client, hardened_client = clients or (("python-stock", "python") if defect.of_python else ("node", "node"))
    target, hardened_target = targets or (
        ("tutorial-python", "reference") if defect.of_python else ("tutorial-node", "hardened-node")
    )
    control = Control(
        name="stock" if defect.of_python else "tutorial",
        expected=defect.shows[0] if defect.shows else "none",
        exactly=defect.shows,
        policy=policy,
        server=server,
        target=target,
        client=client,
        tries=tries,
        order=order,
        has_null=has_null,
    )

    def declare(schedule: Schedule) -> Schedule:
        declared = Scenario(
            schedule,
            "defect",
            (control,),
            {"": {}},
            transports=(transport,),
            policy=claims_policy,
            guarantee=guarantee,
            linux=linux,
            target=hardened_target,
            clients=(hardened_client,),
            label=number,
            item=ITEM,
            title=defect.title,
        )
        setattr(schedule, ATTRIBUTE, declared)
        return schedule

    return declare
