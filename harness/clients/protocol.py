"""What a driver is told and what it tells, a JSON line each; PROTOCOL.md is the page for those who write one."""

from typing import Literal

import msgspec

from harness import history as h

Style = Literal["hardened", "tutorial", "forgetful"]
"""Which broadcasts a receiver takes, and with which offset it comes back."""


class Command(msgspec.Struct, frozen=True, kw_only=True, tag_field="command", tag=str.lower):
    """What a driver is told."""


class Connect(Command, frozen=True, kw_only=True):
    """Who it is, where to connect, what to say, how, and the file of its outbox, if it has one."""

    name: str
    run: str
    port: int
    transports: list[str]
    path: str
    namespace: str
    event: str
    policy: h.Policy
    ack_timeout_seconds: float
    reconnect_delay_seconds: tuple[float, float]
    outbox: str | None
    seed: int


class Receive(Command, frozen=True, kw_only=True):
    """Listen to this event from the next connect on."""

    broadcast: str
    style: Style


class Post(Command, frozen=True, kw_only=True):
    """Emit this message, behind those before it; without an offset the client makes one."""

    message: str
    content: str
    offset: str | None


class Disconnect(Command, frozen=True, kw_only=True):
    """Close the connection and stay away."""


class Reload(Command, frozen=True, kw_only=True):
    """Forget everything in memory, and connect."""


class Stop(Command, frozen=True, kw_only=True):
    """Close the connection and exit."""


AnyCommand = Connect | Receive | Post | Disconnect | Reload | Stop


class Told(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag=str.lower):
    """What a driver tells."""


class Connected(Told, frozen=True, kw_only=True):
    """A connection can be used; `recovered` when the server has restored the session of the one before."""

    connection: int
    recovered: bool = False


class ConnectFailed(Told, frozen=True, kw_only=True):
    """A try to connect failed; the number is used up."""

    connection: int
    reason: str


class Disconnected(Told, frozen=True, kw_only=True):
    """A connection ended."""

    connection: int
    reason: str


class Invoke(Told, frozen=True, kw_only=True):
    """A posted message was handed to the client."""

    message: str
    offset: str


class Attempt(Told, frozen=True, kw_only=True):
    """An emission begins."""

    message: str
    attempt: int
    offset: str
    connection: int


class Ok(Told, frozen=True, kw_only=True):
    """An attempt was acknowledged; `late` when it had ended before."""

    message: str
    attempt: int
    late: bool = False


class Info(Told, frozen=True, kw_only=True):
    """An attempt ended without an answer."""

    message: str
    attempt: int
    reason: str
    timed_out: bool = False


class Fail(Told, frozen=True, kw_only=True):
    """An attempt ended before anything was sent."""

    message: str
    attempt: int
    reason: str


class Settled(Told, frozen=True, kw_only=True):
    """The user was told what became of a message."""

    message: str
    outcome: Literal["acknowledged", "handed-over", "gave-up"]


class Received(Told, frozen=True, kw_only=True):
    """A broadcast arrived."""

    content: str | None
    server_offset: int | float | str | None


class Wire(Told, frozen=True, kw_only=True):
    """How much was sent and received on a connection, whether its next poll is on the wire, and its transport."""

    connection: int
    sent: int
    poll_pending: bool
    received: int = 0
    websocket: bool | None = None


class Error(Told, frozen=True, kw_only=True):
    """The program cannot go on."""

    reason: str


AnyTold = (
    Connected | ConnectFailed | Disconnected | Invoke | Attempt | Ok | Info | Fail | Settled | Received | Wire | Error
)

decode_command = msgspec.json.Decoder(AnyCommand).decode
decode_told = msgspec.json.Decoder(AnyTold).decode
encode = msgspec.json.Encoder().encode

LONGEST_LINE_BYTES = 2**24
"""How long a line may be: far longer than any message."""
