"""What the broken clients of the ledger share, and what none of them gets wrong: the connection and the protocol.

A client is driven by JSON lines on standard input and tells what happens on standard output, as the harness's
`clients/PROTOCOL.md` says. It imports nothing of the harness.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import socketio

Post = dict[str, str]
_LONGEST_LINE_BYTES = 2**24


class Client:
    """Keeps a connection and emits; `deliver` is called once for each message, in order, and is where mistakes are."""

    def __init__(
        self,
        deliver: Callable[["Client", Post], Awaitable[None]],
        on_connect: Callable[["Client", int], Awaitable[None]] | None = None,
    ) -> None:
        self._deliver = deliver
        self._on_connect = on_connect
        self._start: dict[str, Any] = {}
        self._attempts: dict[str, int] = {}
        self._connection = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def run(self) -> None:
        """Emit what standard input says, until it ends."""
        asyncio.run(self._run())

    async def _run(self) -> None:
        self._client = socketio.AsyncClient(reconnection=False, handle_sigint=False)
        lines = asyncio.StreamReader(limit=_LONGEST_LINE_BYTES)
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
        posts: asyncio.Queue[Post] = asyncio.Queue()
        self.spawn(self._deliver_all(posts))
        while (line := await lines.readline()) and (command := json.loads(line))["command"] != "stop":
            self._do(command, posts)
        await self._client.disconnect()

    def _do(self, command: dict[str, Any], posts: "asyncio.Queue[Post]") -> None:
        match command["command"]:
            case "receive":
                self._client.on(command["broadcast"], self._receive)
            case "connect":
                self._start = command
                self.spawn(self._stay_connected())
            case "post":
                self._tell("invoke", message=command["message"], offset=command["offset"])
                posts.put_nowait(command)
            case other:
                self._tell("error", reason=f"{other!r} is not known here")

    async def _deliver_all(self, posts: "asyncio.Queue[Post]") -> None:
        while True:
            await self._deliver(self, await posts.get())

    async def _receive(self, content: object, server_offset: object = None) -> None:
        self._tell("received", content=content, server_offset=server_offset)

    def spawn(self, work: Awaitable[None]) -> None:
        """Run in the background."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _stay_connected(self) -> None:
        url = f"http://127.0.0.1:{self._start['port']}"
        while True:
            self._connection += 1
            try:
                await self._client.connect(url, transports=self._start["transports"])
            except socketio.exceptions.ConnectionError as error:
                self._tell("connectfailed", connection=self._connection, reason=str(error))
                await asyncio.sleep(0.05)
                continue
            self._tell("connected", connection=self._connection)
            if self._on_connect is not None:
                self.spawn(self._on_connect(self, self._connection))
            await self._client.wait()
            self._tell("disconnected", connection=self._connection, reason="ended")

    @property
    def sid(self) -> str | None:
        """The id of the connection, None before the first."""
        return self._client.get_sid()  # type: ignore[no-any-return]  # python-socketio's

    @property
    def connected(self) -> bool:
        """Whether there is a connection."""
        return bool(self._client.connected)

    @property
    def name(self) -> str:
        """Whose client it is."""
        return str(self._start["name"])

    @property
    def run_token(self) -> str:
        """What the identities of all messages of the run begin with."""
        return str(self._start["run"])

    async def wait_a_moment(self) -> None:
        """Wait for as long as nobody notices."""
        await asyncio.sleep(0.02)

    async def emit(self, content: str, offset: str) -> None:
        """Send something that nobody has posted."""
        await self._client.emit(self._start["event"], (content, offset))

    async def attempt(self, post: Post, unanswered: Literal["info", "fail"] = "info") -> bool:
        """Emit a message and wait for its acknowledgement, as long as the ack timeout.

        No answer is told as what it is, an unknown outcome, or as a failure.
        """
        message = post["message"]
        number = self._attempts[message] = self._attempts.get(message, 0) + 1
        self._tell("attempt", message=message, attempt=number, offset=post["offset"], connection=self._connection)
        arguments = (post["content"], post["offset"])
        try:
            await self._client.call(self._start["event"], arguments, timeout=self._start["ack_timeout_seconds"])
        except socketio.exceptions.BadNamespaceError as error:
            self._tell("fail", message=message, attempt=number, reason=str(error))
            await asyncio.sleep(0.05)
            return False
        except socketio.exceptions.TimeoutError:
            how: dict[str, object] = {"timed_out": True} if unanswered == "info" else {}
            self._tell(unanswered, message=message, attempt=number, reason="no answer", **how)
            return False
        self._tell("ok", message=message, attempt=number, late=False)
        return True

    def settle(self, post: Post, outcome: Literal["acknowledged", "gave-up"] = "acknowledged") -> None:
        """Tell the user what came of a message."""
        self._tell("settled", message=post["message"], outcome=outcome)

    def _tell(self, event: str, **what: object) -> None:
        print(json.dumps({"event": event, **what}), flush=True)  # noqa: T201 - the protocol
