"""`make bench`: what the harness costs, as ratios measured in one run on one machine.

* Judging a history against merely decoding its file.
* A whole run (system, one message, final read) against the bare floor: the same server started, one message by the
  stock client, the server stopped.
* Messages a second stored exactly once without a fault, by one and by 50 senders through Toxiproxy: the reference
  server and the hardened Node server in turn, and each with and without the recording of the history.
"""

import asyncio
import itertools
import os
import random
import signal
import statistics
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import socketio

from harness import checker, node, ports, scenario, system, target, waiting
from harness import history as h
from harness.install import locate
from harness.toxiproxy import Toxiproxy

_MESSAGES = (10_000, 100_000)
_ROUNDS = 9
_SENDERS = ((1, 400), (50, 20))
_THROUGHPUT_ROUNDS = 7


def main() -> None:
    """Print every measure, a line each."""
    for count in _MESSAGES:
        _judge(count)
    asyncio.run(_whole_run())
    asyncio.run(_throughput())


def _judge(count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "history.jsonl"
        recorder = h.Recorder(path)
        for event in _events(count):
            recorder.record(event)
        recorder.close()
        decode, judge = [], []
        for _ in range(3):
            began = time.perf_counter()
            history = h.History.load(path)
            decoded = time.perf_counter()
            assert checker.judge(history).verdict == "kept"
            judge.append(time.perf_counter() - began)
            decode.append(decoded - began)
    ratio = statistics.median(judge) / statistics.median(decode)
    print(
        f"judge {count:,} messages: {statistics.median(judge):.2f} s, decoding alone "
        f"{statistics.median(decode):.2f} s, ratio {ratio:.2f}"
    )


def _events(count: int) -> Iterator[h.AnyEvent]:
    run = "0123abcd"
    yield h.Started(
        time=0.0,
        run=run,
        scenario="bench",
        role="claim",
        control=None,
        expected=None,
        client="python",
        transport="websocket",
        seed=0,
        target="bench",
        guarantee="exactly-once",
        order="total",
        receivers="none",
    )
    messages = [h.message_id(run, "alice", number) for number in range(1, count + 1)]
    for number, message in enumerate(messages, start=1):
        at = float(number)
        content = f"{message} hello {message}"
        yield h.Invoke(time=at, message=message, sender="alice", sequence=number, content=content, policy="persistent")
        yield h.Attempt(time=at, message=message, attempt=1, offset=message, connection=1)
        yield h.Ok(time=at, message=message, attempt=1, late=False)
        yield h.Settled(time=at, message=message, outcome="acknowledged")
    for number, message in enumerate(messages, start=1):
        yield h.Row(time=count + 1.0, id=number, client_offset=message, content=f"{message} hello {message}")
    yield h.Finished(time=count + 2.0)


async def _whole_run() -> None:
    described = target.load("reference")

    async def schedule(running: system.System) -> None:
        await (await running.sender("alice")).send("hello")

    declared = scenario.Scenario(schedule, "bench", (), {"": {}})
    case = next(scenario.cases(declared, ["python"], [described]))
    run = scenario.Run("null", None, "persistent", None, {}, "python", described)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        toxiproxy = await Toxiproxy.start(locate(), folder / "toxiproxy.log")
        try:
            numbers = iter(range(1000))

            async def harness() -> None:
                place = folder / str(next(numbers))
                place.mkdir()
                await system.perform(case, run, toxiproxy, place, seed=0)

            async def floor() -> None:
                await _bare(folder / f"{next(numbers)}.db")

            pairs = [(await _timed(harness), await _timed(floor)) for _ in range(_ROUNDS)]
        finally:
            await toxiproxy.stop()
    ours, bare = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    print(f"a run of one message: {ours:.3f} s, bare floor {bare:.3f} s, ratio {ratio:.2f} (median of {_ROUNDS} pairs)")


async def _throughput() -> None:
    servers = ["reference", *(["hardened-node"] if node.lack() is None else [])]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        toxiproxy = await Toxiproxy.start(locate(), folder / "toxiproxy.log")
        try:
            for count, each in _SENDERS:
                rates = {(server, records): [0.0] * 0 for server in servers for records in (True, False)}
                for round_number in range(_THROUGHPUT_ROUNDS):
                    # In turn, so that neither of a pair always has the warmer machine.
                    for server, records in sorted(rates, reverse=bool(round_number % 2)):
                        place = folder / f"{server}-{count}-{records}-{round_number}"
                        place.mkdir()
                        rates[server, records].append(
                            await _rate(server, toxiproxy, place, count, each, records=records)
                        )
                _print_rates(count, servers, rates)
        finally:
            await toxiproxy.stop()


def _print_rates(count: int, servers: list[str], rates: dict[tuple[str, bool], list[float]]) -> None:
    senders = f"{count} sender" + ("" if count == 1 else "s")
    for server in servers:
        recorded, bare = rates[server, True], rates[server, False]
        overhead = statistics.median(b / r for r, b in zip(recorded, bare, strict=True)) - 1
        print(
            f"{senders}, {server}: {statistics.median(recorded):.0f} messages/s stored exactly once, without recording "
            f"{statistics.median(bare):.0f}, overhead {overhead:+.1%} (median of {len(bare)} pairs)"
        )
    if len(servers) > 1:
        first, second = (rates[server, True] for server in servers)
        ratio = statistics.median(b / a for a, b in zip(first, second, strict=True))
        print(f"{senders}: {servers[1]} stores {ratio:.2f} times as many as {servers[0]} in the same time")


class _Forgetful(h.Recorder):
    """Keeps nothing of what happens."""

    def record(self, event: h.AnyEvent) -> None:
        """Forget an event."""


async def _rate(server: str, toxiproxy: Toxiproxy, place: Path, count: int, each: int, *, records: bool) -> float:
    """Messages a second, from the first post to the last acknowledgement."""
    run = scenario.Run("null", None, "persistent", None, {}, "python", target.load(server))
    recorder = (h.Recorder if records else _Forgetful)(place / "history.jsonl")
    async with system.System(
        run,
        transport="websocket",
        toxiproxy=toxiproxy,
        folder=place,
        recorder=recorder,
        random_numbers=random.Random(1),
        token="0123abcd",  # noqa: S106 - the name of a run
    ) as running:
        names = (first + second for first in string.ascii_lowercase for second in string.ascii_lowercase)
        senders = [await running.sender(name) for name in itertools.islice(names, count)]
        began = time.perf_counter()
        await asyncio.gather(*(_send(sender, each) for sender in senders))
        seconds = time.perf_counter() - began
        rows = [h.identity_in("0123abcd", row.content) for row in await running.store.rows()]
        posted = {message.id for sender in senders for message in sender.messages}
        assert len(rows) == count * each
        assert set(rows) == posted
    recorder.close()
    return count * each / seconds


async def _send(sender: system.AnySender, count: int) -> None:
    for _ in range(count):
        await sender.send("a message of some length")


async def _timed(work: Callable[[], Awaitable[None]]) -> float:
    began = time.perf_counter()
    await work()
    return time.perf_counter() - began


async def _bare(database: Path) -> None:
    reservation = ports.reserve()
    command = [sys.executable, "-m", "harness.targets.reference", "--port", str(reservation.port)]
    command += ["--database", str(database)]
    server = await asyncio.to_thread(subprocess.Popen, command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    client = socketio.AsyncClient(reconnection=False, handle_sigint=False)

    async def connected() -> bool:
        try:
            await client.connect(f"http://127.0.0.1:{reservation.port}", transports=["websocket"])
        except socketio.exceptions.ConnectionError:
            return False
        return True

    await waiting.until(connected, awaited="the server", timeout_seconds=10)
    await client.call("chat message", ("hello", "offset"))
    await client.disconnect()
    os.kill(server.pid, signal.SIGTERM)
    await asyncio.to_thread(server.wait)
    reservation.release()


if __name__ == "__main__":
    main()
