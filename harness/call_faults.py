"""Faults at the system calls of the server under test: it is killed at one of them, or one of them fails."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path

from harness import calls, trace, waiting
from harness import history as h
from harness.calls import Call, Error
from harness.clients.author import Message
from harness.errors import HarnessError
from harness.fault import Acts, NotSeen, fault
from harness.server import Server
from harness.store import SQLiteStore
from harness.trace import Tracer, Tracers


class CallFaults:
    """The system calls by which the server changes state while it handles one message, and the faults at them.

    Nobody else may post meanwhile.

    Args:
        server: of the run.
        store: its store.
        recorder: of the run.
        log: takes what a tracer prints that fails.
        patience_seconds: how long a fault waits for its evidence.
        lies: `kill_answered` leaves out the call that commits, and reports it as done.
    """

    title = "the server"

    def __init__(
        self,
        server: Server,
        store: SQLiteStore,
        recorder: h.Recorder,
        *,
        log: Path,
        patience_seconds: float,
        lies: bool,
    ) -> None:
        self._server = server
        self._store = store
        self._recorder = recorder
        self._log = log
        self._patience_seconds = patience_seconds
        self._lies = lies
        self._commit: Call | None = None
        self._tracers: Tracers | None = None

    async def close(self) -> None:
        """End what traces."""
        if self._tracers is not None:
            await self._tracers.close()

    async def dry_run(self, send: Callable[[], Awaitable[Message]]) -> tuple[str, ...]:
        """The calls while a message is handled to which nothing happens.

        Raises:
            HarnessError: the server cannot be traced.
        """
        async with self._tracing() as tracer:
            await tracer.arm()
            message = await send()
            await self._server.idle()
            made = self._record(message, await tracer.stop())
        self._commit = calls.commit(made)
        return made

    async def dry_recovery(self, call: Call, send: Callable[[], Message]) -> tuple[str, ...]:
        """The calls of a server that starts after a kill at `call`, up to where it has answered the message again."""
        async with self._server.restarting():
            async with self._tracing() as tracer:
                await self._arm_kill(tracer, call)
                message = send()
                await self._killed(tracer, call, message)
            return await self._start(message)

    # -- faults --------------------------------------------------------------------------------------------------

    @fault("server")
    async def kill_at_call(self, call: Call) -> Acts:
        """Kill it at a call, before that takes effect; started again at the end."""
        async with self._server.restarting(), self._tracing() as tracer:
            await self._arm_kill(tracer, call)
            message = yield None
            await self._killed(tracer, call, message)
            self._require_fingerprint(call, self._record(message, tracer.records[:-1]))
            yield f"the server was killed at {call}, its call {len(tracer.records)} of {message.id}, {_when(message)}"

    @fault("server")
    async def fail_at_call(self, call: Call, error: Error) -> Acts:
        """Have a call fail, until the message is settled; started again at the end."""
        async with self._server.restarting(), self._tracing() as tracer:
            await tracer.arm(call.number, error, call.fingerprint)
            message = yield None
            await self._hit(tracer, call, message)
            self._require_fingerprint(call, _fingerprints(tracer.records[:-1]))
            with contextlib.suppress(waiting.WaitTimeout):  # it may need the start to go on
                await self._settled(message)
            yield f"{call} failed with {error}, call {len(tracer.records)} of {message.id}"

    @fault("server")
    async def kill_in_recovery(self, first: Call, call: Call) -> Acts:
        """Kill it at a call, and at a call of the start that follows; started again at the end."""
        async with self._server.restarting():
            async with self._tracing() as tracer:
                await self._arm_kill(tracer, first)
                message = yield None
                await self._killed(tracer, first, message)
            async with self._starting() as tracer:
                await tracer.arm(call.number, "kill", call.fingerprint)
                self._server.let_go()
                if not await self._is_hit(tracer, self._recovered(message)):
                    yield f"nothing was hit in the next start: it makes no {call} after a kill at {first}"
                    return
                await self._server.ended()
                place = len(tracer.records)
            yield f"the server was killed at {first}, and at {call}, call {place} of its next start, {_when(message)}"

    @fault("server")
    async def kill_answered(self) -> Acts:
        """Kill it when the message has been acknowledged; started again at the end.

        In the control `without_commit` the call that commits it is left out and reported as done.
        """
        async with self._server.restarting(), self._tracing() as tracer:
            left_out = self._commit if self._lies else None
            if self._lies and left_out is None:
                raise NotSeen("no call of the dry run commits a transaction of SQLite")
            if left_out is not None:
                await tracer.arm(left_out.number, "skip", left_out.fingerprint)
            else:
                await tracer.arm()
            message = yield None
            await self._settled(message)
            if left_out is not None:
                await self._hit(tracer, left_out, message)
            else:
                self._record(message, await tracer.stop())
            if not message.acknowledged:
                raise NotSeen(f"{message.id} was not acknowledged")
            await self._server.kill()
            what = f", whose {left_out} was left out" if left_out is not None else ""
            yield f"the server was killed when {message.id} was acknowledged{what}"

    @fault("server")
    async def hit_no_call(self) -> Acts:
        """Let every call pass."""
        async with self._server.restarting(), self._tracing() as tracer:
            await tracer.arm()
            message = yield None
            await self._settled(message)
            await self._server.idle()
            made = self._record(message, await tracer.stop())
            yield f"nothing was hit: {message.id} was handled with {len(made)} calls"

    @fault("server")
    async def hit_no_call_of_recovery(self, first: Call) -> Acts:
        """Kill it at a call, and let every call of the start that follows pass."""
        async with self._server.restarting():
            async with self._tracing() as tracer:
                await self._arm_kill(tracer, first)
                message = yield None
                await self._killed(tracer, first, message)
            made = await self._start(message)
            if not message.acknowledged:
                raise NotSeen(f"{message.id} was not acknowledged by the next start")
            yield f"nothing was hit in the start after a kill at {first}: {len(made)} calls, {message.id} was answered"

    # -- what they are made of -----------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _tracing(self) -> AsyncIterator[Tracer]:
        """A tracer of the server."""
        group = self._server.group()
        if self._tracers is None or not self._tracers.is_running:
            self._tracers = await Tracers.started(store=self._server.path(self._store.path), log=self._log)
        async with self._tracers.attached(group) as tracer:
            yield tracer

    @contextlib.asynccontextmanager
    async def _starting(self) -> AsyncIterator[Tracer]:
        """A server that stands before its first call."""
        await self._server.start_held()
        async with self._tracing() as tracer:
            yield tracer

    async def _start(self, message: Message) -> tuple[str, ...]:
        """Start the server; its calls up to where it has answered a message again."""
        async with self._starting() as tracer:
            await tracer.arm()
            self._server.let_go()
            await self._settled(message)
            await self._server.idle()
            return _fingerprints(await tracer.stop())

    async def _arm_kill(self, tracer: Tracer, call: Call) -> None:
        await tracer.arm(call.number, "kill", call.fingerprint)
        self._server.expect_end()

    async def _killed(self, tracer: Tracer, call: Call, message: Message) -> None:
        await self._hit(tracer, call, message)
        await self._ended(message)

    async def _hit(self, tracer: Tracer, call: Call, message: Message) -> None:
        """Wait until a call was hit; where the message is settled without it, it will not be."""
        if not await self._is_hit(tracer, self._handled(message)):
            raise NotSeen(f"{call} was not hit, and {message.id} is settled")

    async def _is_hit(self, tracer: Tracer, otherwise: Coroutine[object, object, None]) -> bool:
        """Wait until the call was hit, or something else has happened; whether it was hit."""
        hit, other = asyncio.create_task(tracer.hit(self._patience_seconds)), asyncio.create_task(otherwise)
        try:
            done, _ = await asyncio.wait((hit, other), return_when=asyncio.FIRST_COMPLETED)
            if hit in done or not self._server.is_running:
                await hit
            else:
                other.result()
                await tracer.stop()  # it may have acted, and not have told yet
        except HarnessError as error:  # it has ended by itself, say
            raise NotSeen(str(error)) from error
        finally:
            for task in (hit, other):
                task.cancel()
            await asyncio.gather(hit, other, return_exceptions=True)
        return tracer.was_hit

    async def _handled(self, message: Message) -> None:
        await self._settled(message)
        await self._server.idle()

    async def _recovered(self, message: Message) -> None:
        await self._settled(message)
        await self._server.ready()
        await self._server.idle()

    async def _ended(self, message: Message) -> None:
        """Wait until the server is gone and its sender knows, so that an acknowledgement on its way has arrived."""
        await self._server.ended()
        if message.emitted_on is not None:
            await waiting.within(
                asyncio.shield(message.emitted_on.closed),
                awaited="the connection to end",
                timeout_seconds=self._patience_seconds,
            )

    async def _settled(self, message: Message) -> None:
        await waiting.within(
            message.done.wait(), awaited=f"{message.id} to settle", timeout_seconds=self._patience_seconds
        )

    def _record(self, message: Message, records: tuple[trace.Record, ...]) -> tuple[str, ...]:
        made = _fingerprints(records)
        if message.attempts == 1:  # else the server may have written it before anybody traced
            self._recorder.record(
                h.Traced(time=self._recorder.now(), message=message.id, calls=made, acknowledged=message.acknowledged)
            )
        return made

    def _require_fingerprint(self, call: Call, made: tuple[str, ...]) -> None:
        if (found := calls.changes(made)) != call.before:
            raise NotSeen(f"before {call} the store saw {_listed(found)}, in the dry run {_listed(call.before)}")


def _fingerprints(records: tuple[trace.Record, ...]) -> tuple[str, ...]:
    return tuple(record.fingerprint for record in records)


def _when(message: Message) -> str:
    return f"when {message.id} was {'acknowledged' if message.acknowledged else 'not acknowledged'}"


def _listed(made: tuple[str, ...]) -> str:
    return ", ".join(made) or "nothing"
