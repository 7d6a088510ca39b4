"""One running target with its links, clients and store, for one run: the only place that assembles them."""

import asyncio
import contextlib
import functools
import itertools
import math
import random
import secrets
import shutil
import string
import tempfile
import time
import traceback
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Self, TypeVar

import msgspec

from harness import coverage, node, reaper, resources, steps, waiting
from harness import history as h
from harness.call_faults import CallFaults
from harness.clients.author import Message, Offsets, patience_seconds
from harness.clients.client import Client, Dialer
from harness.clients.driver import DriverReceiver, DriverSender, Program
from harness.clients.kinds import KINDS
from harness.clients.receiver import Receiver
from harness.clients.sender import Sender
from harness.errors import HarnessError, TargetError, reason
from harness.fault import Fault, NotSeen
from harness.link import Link, ReceiverLink, SenderLink
from harness.runtimes import Address, Runtime
from harness.scenario import Case, Run, Scenario, Soak, cases, seed_of
from harness.server import Server
from harness.steps import Schedule, Step
from harness.store import SQLiteStore, StoredRow
from harness.target import Target, fill
from harness.toxiproxy import Toxiproxy

SCENARIO_TIMEOUT_SECONDS = 120.0
"""How long a scenario may take, with its controls, unless the user says otherwise: far longer than any does."""

# How long acknowledged messages may take to become readable, and stored ones to reach the receivers.
_SETTLE_SECONDS = 3.0
_FIRST_NAMES = (
    *("alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi", "ivan", "judy"),
    *("karl", "laura", "mallory", "nina", "olivia", "peggy", "quentin", "rupert", "sybil", "trent"),
)
_NAMES = [name + letter for letter in ("", *string.ascii_lowercase) for name in _FIRST_NAMES]
MOST_SENDERS = len(_NAMES)
# So many steps of a soak make a part of it: long enough for its end to cost little, short enough to wait for.
_PART_STEPS = 20
# And these those of controls and nulls: enough for some that lose what is sent only once.
_CONTROL_STEPS = 8
# How many cases of a sweep controls and nulls run at least, if there are as many.
_SAMPLES = 10
# The receivers: one whose link is never disturbed, one that loses its link whenever a fault acts.
_STEADY, _SHAKEN = "steady", "shaken"

L = TypeVar("L", bound=Link)

AnySender = Sender | DriverSender
AnyReceiver = Receiver | DriverReceiver


def names(count: int) -> list[str]:
    """What so many senders are called."""
    return _NAMES[:count]


def steps_of_last_part(schedule: Schedule) -> int:
    """How many steps of a soak its last part has, or would have, had it come to its end."""
    return (len(schedule.steps) - 1) % _PART_STEPS + 1


class Injection:
    """A fault that is acting. In a null run it is none, and nothing is looked for.

    `obstacle` says why it could not be armed, if so: then it is not seen to bite.
    """

    def __init__(self, fault: Fault | None, number: int, recorder: h.Recorder, obstacle: str | None = None) -> None:
        self._fault = fault
        self._number = number
        self._recorder = recorder
        self._obstacle = obstacle

    async def bitten(self, message: Message) -> None:
        """Let the fault act on `message` and record whether it took effect.

        Never raises for a bite that is not seen: the schedule goes on, since an anomaly outweighs a missing bite.

        Raises:
            HarnessError: this is no message, or the fault has acted on one.
        """
        if not isinstance(message, Message):
            raise HarnessError(f"bitten: expected a message, as `post` returns it, got {message!r}")
        if self._fault is None:
            return
        try:
            if self._obstacle is not None:
                raise NotSeen(self._obstacle)
            seen, evidence = True, await self._fault.bite(message)
        except (NotSeen, waiting.WaitTimeout) as error:
            seen, evidence = False, str(error)
        self._recorder.record(
            h.Bitten(
                time=self._recorder.now(),
                number=self._number,
                fault=self._fault.name,
                message=message.id,
                seen=seen,
                evidence=evidence,
            )
        )


class System:
    """What a schedule acts on; an async context manager.

    Args:
        run: which run of a case it is for: target, client, policy, command, and whether faults act.
        transport: `websocket`, `polling` or `upgrade`.
        toxiproxy: where the links are made.
        runtime: where the server runs.
        folder: for the server's log.
        recorder: of the run.
        random_numbers: of the run.
        token: of the run.

    Attributes:
        server: the server, with its faults.
        calls: the server's system calls, with their faults.
        store: the store, with its faults.
    """

    def __init__(
        self,
        run: Run,
        *,
        transport: str,
        toxiproxy: Toxiproxy,
        runtime: Runtime,
        folder: Path,
        recorder: h.Recorder,
        random_numbers: random.Random,
        token: str,
    ) -> None:
        self.target = target = run.target
        self._run = run
        self._toxiproxy = toxiproxy
        self._runtime = runtime
        self._folder = folder
        self._recorder = recorder
        self._random = random_numbers
        self._token = token
        self._dialer = Dialer(target.protocol, transport, target.claims.content, token, recorder, self._failed)
        self._patience_seconds = patience_seconds(self._dialer)
        # Two runs with one seed may share a Toxiproxy: proxies are not named after the token.
        self._proxy_prefix = f"midemit-{secrets.token_hex(4)}"
        self._cleanup = contextlib.AsyncExitStack()
        self._kind = KINDS[run.client]
        self._senders: list[Sender | DriverSender] = []
        self._receivers: list[Receiver | DriverReceiver] = []
        self._links: list[Link] = []
        self._shaken: Link | None = None
        self._faults = 0
        self._acting = 0
        self._template: Path | None = None
        self._template_rows: list[StoredRow] = []
        self._rows_before: set[str | None] = set()

    async def __aenter__(self) -> Self:
        try:
            await self._assemble()
        except BaseException:
            await self._cleanup.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            resources.require(self._folder)  # what else went wrong may come of that
        finally:
            await self._cleanup.aclose()

    async def _assemble(self) -> None:
        if self._run.needs_node:
            await asyncio.to_thread(node.modules)
        store = self.target.store
        directory = self._directory()
        self._database = database = directory / "store.db"
        self._host = await self._runtime.host(self.target, directory)
        self._address = await self._new_address()
        self.store = SQLiteStore(
            (self.target.folder / fill(store.location, port=self._address.port, database=database)),
            store.rows,
            run=self._token,
            patience_seconds=self._patience_seconds,
            server_pids=lambda: self.server.pids,
        )
        self.server = Server(
            self.target,
            host=self._host,
            address=self._address,
            database=database,
            log=self._folder / "server.log",
            recorder=self._recorder,
            store=self.store,
            control=self._run.server,
            patience_seconds=self._patience_seconds,
            moves=self._move,
        )
        self.calls = CallFaults(
            self.server,
            self.store,
            self._recorder,
            log=self._folder / "tracer.log",
            patience_seconds=self._patience_seconds,
            lies=self._run.control is not None and self._run.control.lies,
        )
        self._cleanup.push_async_callback(self.calls.close)
        self._cleanup.push_async_callback(self.server.kill)
        await self.server.start()
        if self._run.receivers:
            await self.receiver(_STEADY)
            self._shaken = (await self.receiver(_SHAKEN)).link

    async def _new_address(self) -> Address:
        address = await self._host.address()
        self._cleanup.callback(address.release)
        return address

    async def _move(self) -> Address:
        """Lead every link to another address, where the server will listen."""
        self._address = await self._new_address()
        for link in self._links:
            await link.lead_to(self._address)
        if self._shaken is not None and self._acting:
            await self._shaken.close()
        return self._address

    def _directory(self) -> Path:
        directory = tempfile.mkdtemp(prefix="midemit-")
        self._cleanup.callback(self._remove, directory)
        reaper.hold("directory", directory)
        return Path(directory)

    def _remove(self, directory: str) -> None:
        shutil.rmtree(directory)
        reaper.release("directory", directory)

    async def _link(self, kind: type[L], name: str) -> L:
        if any(link.name == name for link in self._links):
            raise HarnessError(f"there is a client named {name!r} in this run already")
        to = self._address
        proxy = await self._toxiproxy.proxy(f"{self._proxy_prefix}-{name}", to.port, to.host)
        link = kind(name, proxy, self.store, patience_seconds=self._patience_seconds)
        self._cleanup.push_async_callback(link.delete)
        self._links.append(link)
        return link

    def _program(self, name: str, command: Sequence[str], outbox: Path | None) -> Program:
        def filled(text: str) -> str:
            return fill(text, port=self._address.published, database=self._database)

        return Program(
            [filled(text) for text in command],
            folder=self.target.folder,
            log=self._folder / f"client-{name}.log",
            outbox=outbox,
            env={variable: filled(text) for variable, text in self._kind.env.items()},
        )

    def _outbox(self, policy: h.Policy) -> Path | None:
        """A file that outlives a client that never gives up, but in the control `without_outbox`."""
        has_one = policy == "persistent" and (self._run.control is None or self._run.control.outbox)
        return self._directory() / "outbox.jsonl" if has_one else None

    # -- for schedules -------------------------------------------------------------------------------------------

    async def sender(self, name: str, policy: h.Policy | None = None, offsets: Offsets | None = None) -> AnySender:
        """A connected sender on a link of its own.

        Args:
            name: lower-case letters, once in a run.
            policy: by default what the run says: the claim's, or that of the control.
            offsets: see `Sender`; by default `random`, and `counter` as the tutorial's client.

        Raises:
            WaitTimeout: it could not connect.
            ClientError: it cannot be started.
        """
        sender = await self.absent_sender(name, policy, offsets)
        await sender.connected(self._patience_seconds)
        return sender

    async def absent_sender(
        self, name: str, policy: h.Policy | None = None, offsets: Offsets | None = None
    ) -> AnySender:
        """The same, on its way to be connected: nobody waits for that.

        Raises:
            ClientError: it cannot be started.
        """
        policy = policy or self._run.policy
        if self._kind.command is not None:
            return await self._driver(name, self._kind.command, policy, offsets)
        return await self._own_sender(name, policy, offsets or "random")

    async def _own_sender(self, name: str, policy: h.Policy, offsets: Offsets) -> Sender:
        """A sender with the harness's own client, in this process."""
        link = await self._link(SenderLink, name)
        sender = Sender(name, self._dialer, link, policy=policy, random_numbers=self._random, offsets=offsets)
        self._cleanup.push_async_callback(sender.close)
        self._senders.append(sender)
        return sender

    async def process_sender(self, name: str) -> DriverSender:
        """A connected sender, on a link of its own, in a process of its own: it can be killed, frozen and reloaded.

        What is not settled is in its outbox, a file, but in the control `without_outbox`.

        Args:
            name: lower-case letters, once in a run.

        Raises:
            WaitTimeout: it could not connect.
            ClientError: it cannot be started.
        """
        sender = await self.absent_process_sender(name)
        await sender.connected(self._patience_seconds)
        return sender

    async def absent_process_sender(self, name: str) -> DriverSender:
        """The same, on its way to be connected: nobody waits for that.

        Raises:
            ClientError: it cannot be started.
        """
        command = self._kind.command or self.target.client.command
        return await self._driver(name, command, self._run.policy, None)

    async def _driver(
        self, name: str, command: Sequence[str], policy: h.Policy, offsets: Offsets | None
    ) -> DriverSender:
        sender = DriverSender(
            name,
            self._dialer,
            await self._link(SenderLink, name),
            self.store,
            self._program(name, command, self._outbox(policy)),
            policy=policy,
            random_numbers=self._random,
            offsets=offsets or ("counter" if policy.startswith("tutorial") else "random"),
        )
        self._cleanup.push_async_callback(sender.close)
        self._senders.append(sender)
        await sender.start()
        return sender

    async def receiver(self, name: str) -> AnyReceiver:
        """A connected receiver, on a link of its own; that of a run with the tutorial's policy is the tutorial's.

        Raises:
            WaitTimeout: it could not connect.
            ClientError: it cannot be started.
        """
        link = await self._link(ReceiverLink, name)
        forgets = self._run.control is not None and self._run.control.forgets
        if self._kind.command is None:
            receiver: Receiver | DriverReceiver = Receiver(name, link.port, self._dialer, forgets=forgets)
        else:
            program = self._program(name, self._kind.command, None)
            receiver = DriverReceiver(
                name, link.port, self._dialer, program, self._run.policy, "forgetful" if forgets else None
            )
        receiver.link, link.receiver = link, receiver
        self._cleanup.push_async_callback(receiver.close)
        self._receivers.append(receiver)
        if isinstance(receiver, DriverReceiver):
            await receiver.start()
        await receiver.connected(self._patience_seconds)
        return receiver

    @property
    def undisturbed(self) -> int:
        """How many clients keep their links, or come back on them, while a fault acts."""
        return len(self._senders) + len(self._receivers) - (self._shaken is not None)

    def hurry(self) -> None:
        """Have every client come back at once whose link and server are there again, not when its delay has passed."""
        for client in (*self._senders, *self._receivers):
            if isinstance(client, Client):
                client.hurry()

    async def all_online(self) -> None:
        """Wait until every client is connected that has a link."""
        for client in (*self._senders, *self._receivers):
            if client.name != _SHAKEN or not self._acting:
                await client.online()

    async def senders(self, count: int) -> list[AnySender]:
        """`count` connected senders.

        Raises:
            HarnessError: that many have no names.
        """
        if not 1 <= count <= MOST_SENDERS:
            raise HarnessError(f"senders: expected 1 to {MOST_SENDERS}, got {count!r}")
        everyone = [await self.absent_sender(name) for name in names(count)]
        await asyncio.gather(*(sender.connected(self._patience_seconds) for sender in everyone))
        return everyone

    async def crowd(self, count: int) -> list[AnySender]:
        """`count` connected senders, of which the last, if there are several, is a program of its own.

        Raises:
            HarnessError: that many have no names.
            ClientError: it cannot be started.
        """
        if count == 1:
            return await self.senders(1)
        everyone = await self.senders(count - 1)
        return [*everyone, await self.process_sender(names(count)[-1])]

    @contextlib.asynccontextmanager
    async def inject(
        self, fault: Fault, case: int | str | None = None, place: str | None = None
    ) -> AsyncIterator[Injection]:
        """Have a fault act for as long as the scope lasts. While any does, one receiver has no link.

        In a null run this does nothing, and nothing else knows that it is one. In a sweep `case` is its position, and
        `place` what stands there.
        """
        self._faults += 1
        number = self._faults
        if self._run.role == "null":
            yield Injection(None, number, self._recorder)
            return
        self._recorder.record(
            h.FaultBegan(
                time=self._recorder.now(),
                number=number,
                fault=fault.name,
                kind=fault.kind,
                on=fault.on,
                case=None if case is None else f"{self._run.space}/{case}",
                place=place,
            )
        )
        async with contextlib.AsyncExitStack() as ending:  # each step is taken, whatever becomes of the others
            ending.callback(self._ended, number)
            ending.push_async_callback(self._unshake)
            await self._shake()
            ending.push_async_callback(fault.heal)
            ending.callback(self._healing, number)
            obstacle = None
            try:
                await fault.begin()
            except (NotSeen, waiting.WaitTimeout) as error:  # as with a bite: what else went wrong outweighs it
                obstacle = str(error)
            yield Injection(fault, number, self._recorder, obstacle)

    def _healing(self, number: int) -> None:
        self._recorder.record(h.Healing(time=self._recorder.now(), number=number))

    def _ended(self, number: int) -> None:
        self._recorder.record(h.FaultEnded(time=self._recorder.now(), number=number))

    async def _shake(self) -> None:
        self._acting += 1
        if self._shaken is not None and self._acting == 1:
            await self._shaken.close()

    async def _unshake(self) -> None:
        self._acting -= 1
        if self._shaken is not None and self._acting == 0:
            await self._shaken.restore()

    def cases(self, count: int) -> list[int]:
        """Which of so many cases of a sweep this run goes through: all, its share, or what is asked for.

        Controls and nulls go through some of all, since what is asked for need not threaten anything.

        Raises:
            HarnessError: there is no such case.
        """
        positions = range(count)
        if self._run.role != "claim":
            return sorted({*positions[:: max(1, count // _SAMPLES)], *positions[-3:]})
        if self._run.only is None:
            number, shares = self._shares(count)
            return list(positions[count * (number - 1) // shares : count * number // shares])
        first, _, last = self._run.only.partition("..")
        if not first.isdecimal() or int(last or first) not in positions:
            space = self._run.space
            raise HarnessError(f"there is no case {space}/{last or first}: the last one is {space}/{count - 1}")
        if int(last or first) < int(first):
            raise HarnessError(f"there is no case in {self._run.space}/{first}..{last}: the first comes first")
        return list(positions[int(first) : int(last or first) + 1])

    def _shares(self, count: int) -> tuple[int, int]:
        if self._run.share[1] > count:
            raise HarnessError(f"{self._run.space} has {count} cases: that cannot be {self._run.share[1]} shares")
        return self._run.share

    def spot_checks(self, cases: Sequence[int]) -> list[int]:
        """The first, the middle and the last of the cases, where this run goes through all; else none."""
        if self._run.role != "claim" or self._run.only is not None:
            return []
        return sorted({*cases[:1], *cases[len(cases) // 2 :][:1], *cases[-1:]})

    def pairs(self, first: int, second: int) -> Iterator[tuple[int | None, int | None]]:
        """Which pairs of so many first and so many second faults this run goes through, in an order that is any.

        All of its share, or as many as its budget allows, from where the runs before have ended; the one that is asked
        for, of which None is a fault that is left out; controls and nulls a few.

        Raises:
            HarnessError: there is no such case.
        """
        space = self._run.space
        number, shares = self._shares(first * second)
        order = coverage.order(space, first * second)
        if self._run.role != "claim":
            yield from (divmod(pair, second) for pair in order[:_SAMPLES])
            return
        if self._run.only is not None:
            yield self._pair(self._run.only, first, second)
            return
        order = order[number - 1 :: shares]
        size = len(order)
        begun = done = coverage.load(self._run.progress, size)
        deadline = math.inf if self._run.budget_seconds is None else time.monotonic() + self._run.budget_seconds
        try:
            for pair in order[begun:]:
                if time.monotonic() >= deadline:
                    break
                yield divmod(pair, second)
                done += 1
        finally:
            share = f"{space}, share {number} of {shares}" if shares > 1 else space
            swept = h.Swept(time=self._recorder.now(), space=share, size=size, begun=begun, done=done)
            self._recorder.record(swept)
            coverage.save(self._run.progress, size, done)

    def _pair(self, only: str, first: int, second: int) -> tuple[int | None, int | None]:
        one, plus, other = only.partition("+")
        pair = int(one) if one else None, int(other) if other else None
        if not plus or (pair[0] or 0) >= first or (pair[1] or 0) >= second:
            last = f"{first - 1}+{second - 1}"
            raise HarnessError(f"there is no case {self._run.space}/{only}: the last one is {self._run.space}/{last}")
        return pair

    # -- soaks ---------------------------------------------------------------------------------------------------

    async def parts(self, everyone: Sequence[AnySender]) -> AsyncIterator[Iterator[Step]]:
        """The parts of a soak, each of them the steps to take; when one is taken, it is read, judged and forgotten.

        The last part ends with the run. Controls and nulls have one part.

        Args:
            everyone: who sends.

        Raises:
            TargetError: the store cannot be read.
        """
        programs = [sender.name for sender in everyone if isinstance(sender, DriverSender)]
        # The harness's own program does not tell when a message leaves it, by which other faults are seen to bite.
        tells = self._kind.command is not None
        others = [sender.name for sender in everyone if tells or not isinstance(sender, DriverSender)]
        drawn = steps.drawn(self.target, others, programs, random.Random(self._random.getrandbits(64)))
        soak = self._run.soak
        if soak is None:
            yield itertools.islice(drawn, _CONTROL_STEPS)
            return
        schedule = iter(soak.steps) if soak.steps is not None else drawn
        deadline = time.monotonic() + soak.seconds
        steps.begin(self._folder / steps.FILE, len(everyone))
        now = self._recorder.now()
        self._recorder.record(h.Soaked(time=now, parts=0, seconds=0.0, counts={}, faults={}, sequences={}))
        is_over = False
        while not is_over:
            yield self._taken(itertools.islice(schedule, _PART_STEPS), deadline)
            following = next(schedule, None)
            is_over = following is None or time.monotonic() >= deadline or not await self._end_part(soak)
            schedule = itertools.chain([following] if following is not None else [], schedule)

    def _taken(self, part: Iterator[Step], deadline: float) -> Iterator[Step]:
        for step in part:
            if time.monotonic() >= deadline or not self.server.is_running:  # one that has crashed stays down
                break
            steps.append(self._folder / steps.FILE, step)
            yield step

    async def _end_part(self, soak: Soak) -> bool:
        """Read what a part of a soak has left and have it judged; whether the next can begin, with a new history."""
        await self._drain()
        await self._settle()
        await self._toxiproxy.alive()
        await self._read_again()
        rows = await self.store.rows()
        self._record(rows)
        self.store.pass_by(rows, {sender.name: sender.posted for sender in self._senders})
        self._recorder.record(h.Finished(time=self._recorder.now()))
        began, *events = self._recorder.events
        soaked = await soak.judged(self._recorder.path)
        if soaked is None:
            return False
        assert isinstance(began, h.Started)
        # What was told meanwhile belongs to the next part, but for late answers, which change nothing.
        later = [event for event in self._recorder.events[1 + len(events) :] if not isinstance(event, h.Ok)]
        now = self._recorder.now()
        self._recorder.begin_anew(msgspec.structs.replace(began, time=now), msgspec.structs.replace(soaked, time=now))
        for client in (*self._senders, *self._receivers):
            client.forget()
        for event in later:
            self._recorder.record(event)
        return True

    async def make_template(self) -> None:
        """Keep the store as it is now; `renew` returns to it. What is in it counts as read."""
        await self.server.stop()
        self._template = self._directory()
        self.store.copy_to(self._template)
        self._template_rows = await self.store.rows()
        self._record(self._template_rows)
        await self.server.start()

    async def renew(self) -> None:
        """Read what is in the store, and start the server again on what it was when `make_template` was called.

        Every client is connected then.

        Raises:
            TargetError: the store cannot be read, or the server does not start.
        """
        assert self._template is not None
        await self._settle()
        with self._away():
            await self.server.kill()
            rows = await self._new_rows()
            self._record(rows)
            self._rows_before |= self._identities([*self._template_rows, *rows])
            self.store.copy_from(self._template)
            await self.server.start()
        await self.all_online()

    @contextlib.contextmanager
    def _away(self) -> Iterator[None]:
        """Have every client that does as it is told not come back in the scope, where it would try in vain."""
        clients = [client for client in (*self._senders, *self._receivers) if isinstance(client, Client)]
        for client in clients:
            client.stay_away()
        try:
            yield
        finally:
            for client in clients:
                client.connect()

    def _identities(self, rows: Sequence[StoredRow]) -> set[str | None]:
        return {h.identity_in(self._token, row.content, row.client_offset) for row in rows}

    @property
    def transport(self) -> str:
        """How the clients of this run are connected."""
        return self._dialer.transport

    def seconds(self, ack_timeouts: float) -> float:
        """A duration that scales with the target's ack timeout."""
        return ack_timeouts * self.target.protocol.ack_timeout_seconds

    # -- the end -------------------------------------------------------------------------------------------------

    async def final_read(self) -> None:
        """Drain, settle, stop the server and record the rows that are judged.

        Raises:
            TargetError: the store cannot be read.
            ToxiproxyError: Toxiproxy has died on the way: what looks like a loss may be its own.
        """
        await self._drain()
        if self._receivers and self.server.is_running:  # to a server that has crashed nobody can say anything
            answered = self._run.server != "without_acknowledgement"
            marker = await self._own_sender(h.MARKER, "persistent" if answered else "fire-and-forget", "random")
            await marker.send()
        await self._settle()
        await self._toxiproxy.alive()
        for client in (*self._senders, *self._receivers):
            await client.close()
        await self.server.stop()
        await self._read_again()
        self._record(await self._new_rows())

    async def _read_again(self) -> None:
        """Record what has become of the rows that earlier parts of a soak have read."""
        if (again := await self.store.passed_again()) is not None:
            self._recorder.record(msgspec.structs.replace(again, time=self._recorder.now()))

    async def _new_rows(self) -> list[StoredRow]:
        """The rows that no earlier reading has recorded."""
        rows, known = await self.store.rows(), self._template_rows
        return rows[len(known) :] if rows[: len(known)] == known else rows

    def _record(self, rows: Sequence[StoredRow]) -> None:
        for row in rows:
            self._recorder.record(h.Row(time=self._recorder.now(), **row._asdict()))

    async def _drain(self) -> None:
        """Wait until nothing more will be done about any message, or nothing has been for too long."""

        def waiting_for() -> int:
            return sum(not message.done.is_set() for sender in self._senders for message in sender.messages)

        while left := waiting_for():
            try:
                await waiting.until(
                    functools.partial(lambda before: waiting_for() < before, left),
                    awaited="a message to settle",
                    timeout_seconds=self._patience_seconds,
                )
            except waiting.WaitTimeout:
                break
        self._recorder.record(h.Drained(time=self._recorder.now(), complete=not waiting_for()))

    async def _settle(self) -> None:
        """Wait until every message is stored that is to be, and every receiver has what is; or for long enough."""
        owed = {m.id for sender in self._senders for m in sender.messages if m.acknowledged or sender.asks_nothing}

        async def settled() -> bool:
            rows = await self.store.rows()
            stored = (self._identities(rows) | self._rows_before) - {None}
            return owed <= stored and all(stored <= receiver.messages for receiver in self._receivers)

        with contextlib.suppress(waiting.WaitTimeout):
            await waiting.until(
                settled,
                awaited="the rows and the receivers to settle",
                timeout_seconds=_SETTLE_SECONDS,
                interval_seconds=0.01,
            )

    def _failed(self, where: str, reason: str) -> None:
        self._recorder.record(h.Failed(time=self._recorder.now(), where=where, reason=reason))


async def perform(
    case: Case,
    run: Run,
    toxiproxy: Toxiproxy,
    runtime: Runtime,
    folder: Path,
    seed: int,
    timeout_seconds: float = SCENARIO_TIMEOUT_SECONDS,
) -> None:
    """Do one run of a case and leave its history in `folder`, whatever happens.

    What fails around the traffic is in the history too.

    Raises:
        HarnessError: the history cannot be written.
    """
    random_numbers = seed_of(seed, case.schedule_id, run)
    token = f"{random_numbers.getrandbits(32):08x}"
    recorder = h.Recorder(folder / "history.jsonl")

    async def whole() -> None:
        resources.require(folder)
        async with System(
            run,
            transport=case.transport,
            toxiproxy=toxiproxy,
            runtime=runtime,
            folder=folder,
            recorder=recorder,
            random_numbers=random_numbers,
            token=token,
        ) as system:
            await case.scenario.schedule(system, **run.parameters)
            await system.final_read()

    try:
        recorder.record(_started(case, run, token, seed))
        await waiting.within(
            whole(),
            awaited="the scenario to end (all that --scenario-timeout leaves it)",
            timeout_seconds=timeout_seconds,
        )
        recorder.record(h.Finished(time=recorder.now()))
    except HarnessError as error:
        recorder.record(h.Failed(time=recorder.now(), where=type(error).__name__, reason=str(error)))
    except Exception as error:
        # A schedule is anybody's code: whatever it raises ends this run, and says nothing about the target.
        said = f"{type(error).__name__}: {reason(error) if isinstance(error, OSError) else error}"
        with contextlib.suppress(OSError):
            (folder / "traceback.txt").write_text(traceback.format_exc())
            said += f" (see {folder / 'traceback.txt'})"
        recorder.record(h.Failed(time=recorder.now(), where="the schedule", reason=said))
    finally:
        recorder.close()


def _started(case: Case, run: Run, token: str, seed: int) -> h.Started:
    target = run.target
    return h.Started(
        time=0.0,
        run=token,
        scenario=case.id,
        role=run.role,
        control=run.control.name if run.control else None,
        expected=run.control.expected if run.control else None,
        exactly=run.control.exactly if run.control else None,
        client=run.client,
        transport=case.transport,
        seed=seed,
        target=target.name,
        guarantee=case.scenario.guarantee or target.claims.guarantee,
        order=(run.control.order if run.control else None) or target.claims.order,
        receivers=target.claims.receivers if run.receivers else "none",
        recovery_seconds=target.claims.recovery_seconds if run.role == "claim" else None,
    )


async def preflight(target: Target, toxiproxy: Toxiproxy, runtime: Runtime, folder: Path) -> None:
    """Send one message and read the rows, before anything is measured.

    Raises:
        TargetError: the target does not start, does not answer, or its rows cannot be read.
    """

    async def schedule(system: System) -> None:
        alice = await system.sender("alice")
        message = await alice.send()
        if not message.acknowledged:
            raise TargetError(
                f"the target {target.name} did not acknowledge a message in {message.attempts} attempts: is "
                f"protocol.event {target.protocol.event!r} right, and does its handler call the acknowledgement? "
                f"See {folder / 'server.log'}"
            )
        await system.store.rows()

    case = next(cases(Scenario(schedule, "preflight", (), {"": {}}), ["python"], [target]))
    run = Run("null", None, "persistent", None, {}, case.client, target)
    await perform(case, run, toxiproxy, runtime, folder, seed=0)
    failure = next((e for e in h.History.load(folder / "history.jsonl") if isinstance(e, h.Failed)), None)
    if failure is not None:
        hint = ". Are protocol.path and protocol.namespace right, and may anybody connect?"
        raise TargetError(failure.reason + (hint if "to be connected" in failure.reason else ""))
