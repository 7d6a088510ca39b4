"""`make bench`: what the harness costs, as ratios measured in one run on one machine.

* Judging a history against merely decoding its file, line by line and keeping nothing; and the memory it takes.
* A whole run (system, one message, final read) against the bare floor: the same server started, one message by the
  stock client, the server stopped.
* A case of the wire sweep against the bare floor, a plain script that emits, is cut, connects again and emits; and how
  many cases a second the whole sweep of one message does; two workers against two copies of that script.
* Kills at a system call a second.
* In containers against without: a run of one message, a wire case, and the time from a kill to a server that is ready.
* Messages a second stored exactly once without a fault, by one and by 50 senders through Toxiproxy: the reference
  server and the hardened Node server in turn, and each with and without the recording of the history.
"""

import argparse
import asyncio
import contextlib
import itertools
import multiprocessing
import os
import random
import signal
import statistics
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import aiohttp
import msgspec
import socketio

from harness import checker, engine, node, ports, scenario, system, target, trace, waiting
from harness import history as h
from harness.install import locate
from harness.runtimes import Images, Runtime
from harness.runtimes.containers import Containers
from harness.runtimes.local import Local
from harness.sweeps import syscalls, wire
from harness.toxiproxy import Toxiproxy

_MESSAGES = (10_000, 100_000, 1_000_000)
# Caches that no longer hold everything may cost that much, and not more.
_LINEAR = 1.5
_ROUNDS = 9
_WIRE_ROUNDS = 5
_WIRE_CASES = 60
_CORES_ROUNDS = 5
_CALL_ROUNDS = 3
_CONTAINER_ROUNDS = 3
_CONTAINER_STARTS = 5
# How many, and how many messages each sends in a slice; slices for each server with and without recording.
_SENDERS = ((1, 60), (50, 3))
_SLICES = 30


def main() -> None:
    """Print every measure, a line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, image in Images()._asdict().items():
        parser.add_argument(f"--image-{name}", dest=name, default=image, metavar="IMAGE")
    images = Images(**vars(parser.parse_args()))
    _judge()
    asyncio.run(_whole_run())
    asyncio.run(_wire())
    _both_cores()
    asyncio.run(_system_calls())
    asyncio.run(_containers(images))
    asyncio.run(_throughput())


def _judge() -> None:
    """Judge histories of which each is ten times as long as the one before, five events a message."""
    measured = []
    for count in _MESSAGES:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "history.jsonl"
            with path.open("wb") as file:
                file.writelines(msgspec.json.encode(event) + b"\n" for event in _events(count))
            # First of all, because what this process has once held counts as the other's, too.
            program = [sys.executable, "-c", _JUDGE_ALONE, str(path)]
            kibibytes = int(subprocess.run(program, check=True, capture_output=True, text=True).stdout)
            pairs = [(_processor_seconds(_only_decode, path), _processor_seconds(_only_judge, path)) for _ in range(3)]
        decode, judge = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(judge / decode for decode, judge in pairs)
        print(
            f"judge {count:,} messages, {5 * count:,} events: {judge:.2f} s, decoding alone {decode:.2f} s, "
            f"ratio {ratio:.2f}; a process that does nothing else needs {kibibytes * 1024 / 1e6:.0f} MB"
        )
        measured.append(judge / count)
    growth = measured[-1] / measured[0]
    linear = "linear" if growth < _LINEAR else "not linear"
    print(f"a message among {_MESSAGES[-1]:,} takes {growth:.2f} times as long as among {_MESSAGES[0]:,}: {linear}")


# On Linux, `ru_maxrss` is in KiB.
_JUDGE_ALONE = """
import pathlib, resource, sys
from harness import checker, history
assert checker.judge(history.SavedHistory(pathlib.Path(sys.argv[1]))).verdict == "kept"
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def _only_decode(path: Path) -> None:
    decode = msgspec.json.Decoder(h.AnyEvent).decode
    with path.open("rb") as file:
        for line in file:
            decode(line)


def _only_judge(path: Path) -> None:
    assert checker.judge(h.SavedHistory(path)).verdict == "kept"


def _processor_seconds(work: Callable[[Path], None], path: Path) -> float:
    began = time.process_time()
    work(path)
    return time.process_time() - began


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
    described = _from_nothing(target.load("reference"))

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
                await system.perform(case, run, toxiproxy, Local(place), place, seed=0)

            async def floor() -> None:
                await _bare(folder / f"{next(numbers)}.db")

            pairs = [(await _timed(harness), await _timed(floor)) for _ in range(_ROUNDS)]
        finally:
            await toxiproxy.stop()
    ours, bare = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    print(f"a run of one message: {ours:.3f} s, bare floor {bare:.3f} s, ratio {ratio:.2f} (median of {_ROUNDS} pairs)")


async def _wire() -> None:
    described = target.load("reference")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        toxiproxy = await Toxiproxy.start(locate(), folder / "toxiproxy.log")
        try:
            ratios = []
            rates = []
            for number in range(_WIRE_ROUNDS):
                places = [folder / f"{number}-{lanes}" for lanes in (1, 4)]
                for place in places:
                    place.mkdir()
                ours = await _swept(described, toxiproxy, places[0], lanes=1)
                bare = await _cut_bare(toxiproxy, folder / f"{number}.db")
                ratios.append((1 / ours, bare))
                rates.append(await _swept(described, toxiproxy, places[1], lanes=4))
        finally:
            await toxiproxy.stop()
    ours, bare = (statistics.median(column) for column in zip(*ratios, strict=True))
    ratio, rate = statistics.median(a / b for a, b in ratios), statistics.median(rates)
    print(f"a wire case: {ours * 1000:.1f} ms, bare floor {bare * 1000:.1f} ms, ratio {ratio:.2f}; {rate:.0f} a second")


def _both_cores() -> None:
    """Two workers beside two copies of the bare floor, each of them on a Toxiproxy and a server of its own."""
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        pairs = [(sum(pool.map(_alone, [True] * 2)), sum(pool.map(_alone, [False] * 2))) for _ in range(_CORES_ROUNDS)]
    ours, bare = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    print(f"two workers: {ours:.0f} wire cases a second, two copies of the bare floor {bare:.0f}, ratio {ratio:.2f}")


def _alone(ours: bool) -> float:
    """The wire cases a second of one process: by the harness, or by the plain script."""
    return asyncio.run(_rate(ours))


async def _rate(ours: bool) -> float:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        toxiproxy = await Toxiproxy.start(locate(), folder / "toxiproxy.log")
        try:
            if not ours:
                return 1 / await _cut_bare(toxiproxy, folder / "bare.db", 4 * _WIRE_CASES)
            return await _swept(target.load("reference"), toxiproxy, folder, lanes=4)
        finally:
            await toxiproxy.stop()


async def _swept(
    described: target.Target, toxiproxy: Toxiproxy, place: Path, lanes: int, runtime: Runtime | None = None
) -> float:
    """How many cases a second the sweep upstream does, on so many links."""

    async def schedule(running: system.System) -> None:
        await wire.every_byte(running, "upstream", lanes)

    return await _cases_a_second(schedule, described, toxiproxy, place, runtime)


async def _system_calls() -> None:
    """How many kills at a system call a second, each with two starts of the server, a message before and one after."""
    if (lack := trace.lack()) is not None:
        print(f"system calls: left out, {lack}")
        return
    with tempfile.TemporaryDirectory() as name:
        toxiproxy = await Toxiproxy.start(locate(), Path(name) / "toxiproxy.log")
        try:
            for server in ("reference", *(["hardened-node"] if node.lack() is None else [])):
                rates = []
                for number in range(_CALL_ROUNDS):
                    place = Path(name) / f"{server}-{number}"
                    place.mkdir()
                    rates.append(await _cases_a_second(_every_kill, target.load(server), toxiproxy, place))
                print(f"a kill at a system call of {server}: {statistics.median(rates):.1f} cases a second")
        finally:
            await toxiproxy.stop()


async def _containers(images: Images) -> None:
    """Each measure in turn without and with containers, every start of a server one of its command."""
    if (lack := engine.lack()) is not None:
        print(f"containers: left out, {lack}")
        return
    described = _from_nothing(target.load("reference"))
    found: dict[str, list[tuple[float, ...]]] = {}
    with tempfile.TemporaryDirectory() as name:
        for number in range(_CONTAINER_ROUNDS):
            for kind in ("local", "docker"):
                place = Path(name) / f"{number}-{kind}"
                place.mkdir()
                runtime: Runtime = Local(place)
                if kind == "docker":
                    runtime = containers = Containers(engine.connect(), "bench", images)
                    containers.require([described])
                toxiproxy = await runtime.toxiproxy(place / "toxiproxy.log")
                try:
                    found.setdefault(kind, []).append(await _in(runtime, described, toxiproxy, place))
                finally:
                    await toxiproxy.stop()
                    await runtime.close()
    local, docker = ([statistics.median(column) for column in zip(*found[kind], strict=True)] for kind in found)
    for what, here, there in zip(
        ("a run of one message", "a wire case", "from a kill to ready"), local, docker, strict=True
    ):
        print(f"{what}: {there * 1000:.0f} ms in containers, {here * 1000:.0f} ms without, ratio {there / here:.2f}")


async def _in(
    runtime: Runtime, described: target.Target, toxiproxy: Toxiproxy, place: Path
) -> tuple[float, float, float]:
    """The seconds of a run of one message, of a wire case, and from a kill to ready."""
    seconds = {}

    async def schedule(running: system.System) -> None:
        await (await running.sender("alice")).send("hello")
        starts = []
        for _ in range(_CONTAINER_STARTS):
            await running.server.kill()
            began = time.perf_counter()
            await running.server.start()
            starts.append(time.perf_counter() - began)
        seconds["start"] = statistics.median(starts)

    async def one(running: system.System) -> None:
        await (await running.sender("alice")).send("hello")

    async def performed(schedule: Callable[[system.System], Awaitable[None]], name: str) -> float:
        folder = place / name
        folder.mkdir()
        case = next(scenario.cases(scenario.Scenario(schedule, "bench", (), {"": {}}), ["python"], [described]))
        run = scenario.Run("null", None, "persistent", None, {}, "python", described)
        began = time.perf_counter()
        await system.perform(case, run, toxiproxy, runtime, folder, seed=0)
        return time.perf_counter() - began

    await performed(one, "first")  # what a process of the harness has once, a pod say
    whole = await performed(one, "one")
    await performed(schedule, "starts")
    (place / "wire").mkdir()
    wire_rate = await _swept(described, toxiproxy, place / "wire", lanes=1, runtime=runtime)
    return whole, 1 / wire_rate, seconds["start"]


async def _every_kill(running: system.System) -> None:
    await syscalls.every_call(running, "kill")


async def _cases_a_second(
    schedule: Callable[[system.System], Awaitable[None]],
    described: target.Target,
    toxiproxy: Toxiproxy,
    place: Path,
    runtime: Runtime | None = None,
) -> float:
    declared = scenario.Scenario(schedule, "wire", (), {"up": {}}, sweep=True)
    case = next(scenario.cases(declared, ["python"], [described]))
    local = Local(place)
    try:
        await system.perform(case, scenario.runs(case)[-1], toxiproxy, runtime or local, place, seed=0)
    finally:
        await local.close()
    history = h.History.load(place / "history.jsonl")
    assert checker.judge(history).verdict == "kept"
    # What has no number is no case: it is gone through again without forks, behind all of them.
    begun = {event.number: event.time for event in history if isinstance(event, h.FaultBegan) and event.case}
    ended = [event.time for event in history if isinstance(event, h.FaultEnded) and event.number in begun]
    return len(begun) / (ended[-1] - min(begun.values()))


async def _cut_bare(toxiproxy: Toxiproxy, database: Path, cases: int = _WIRE_CASES) -> float:
    """The seconds that a case takes in a plain script, with stock python-socketio and aiohttp.

    As little as a case can be: the limit, the message, the cut, the limit lifted, one new connection, the message
    again. There is no delay in it, nobody looks for a row, and nothing is recorded.
    """
    async with _bare_server(database) as port, aiohttp.ClientSession() as api:
        proxy = await toxiproxy.proxy("bare", port)
        toxics, url = f"{toxiproxy.url}/proxies/bare/toxics", f"http://127.0.0.1:{proxy.port}"
        client = await _connected(url)
        began = time.perf_counter()
        for number in range(cases):
            client = await _one_cut(api, toxics, url, client, number)
        seconds = (time.perf_counter() - began) / cases
        await client.disconnect()
        await proxy.delete()
    return seconds


async def _one_cut(
    api: aiohttp.ClientSession, toxics: str, url: str, client: socketio.AsyncClient, number: int
) -> socketio.AsyncClient:
    ended = asyncio.Event()
    client.on("disconnect", ended.set)
    message = (f"message {number} hello", f"offset {number}")
    limit = {"name": "limit", "type": "limit_data", "stream": "upstream", "attributes": {"bytes": number % 40}}
    async with api.post(toxics, json=limit):
        await client.emit("chat message", message, callback=lambda *_: None)
        await ended.wait()
    async with api.delete(f"{toxics}/limit"):
        client = await _connected(url)
    await client.call("chat message", message)
    return client


async def _connected(url: str) -> socketio.AsyncClient:
    client = socketio.AsyncClient(reconnection=False, handle_sigint=False)
    await client.connect(url, transports=["websocket"], auth={"serverOffset": 2**40})
    return client


async def _throughput() -> None:
    names = ["reference", *(["hardened-node"] if node.lack() is None else [])]
    with tempfile.TemporaryDirectory() as folder:
        toxiproxy = await Toxiproxy.start(locate(), Path(folder) / "toxiproxy.log")
        try:
            for count, each in _SENDERS:
                async with contextlib.AsyncExitStack() as running:
                    loads = {}
                    for name in names:
                        place = Path(folder) / f"{name}-{count}"
                        place.mkdir()
                        loads[name] = await running.enter_async_context(_load(name, toxiproxy, place, count))
                    _print_rates(count, await _in_turn(loads, each), loads)
        finally:
            await toxiproxy.stop()


class _Switch(h.Recorder):
    """Keeps what happens while it is on; `busy_seconds` is the time that this took."""

    on = True
    busy_seconds = 0.0

    def record(self, event: h.AnyEvent) -> None:
        """Append an event, or forget it."""
        if self.on:
            began = time.perf_counter()
            super().record(event)
            self.busy_seconds += time.perf_counter() - began


class _Load:
    """Senders on a running system, and the switch of its recording."""

    def __init__(self, senders: list[system.AnySender], recorder: _Switch) -> None:
        self._senders = senders
        self._recorder = recorder
        self._recorded_seconds = 0.0

    @property
    def busy_share(self) -> float:
        """How much of the time the recording took, while it was on."""
        return self._recorder.busy_seconds / self._recorded_seconds

    async def rate(self, each: int, *, records: bool) -> float:
        """Messages a second, from the first post to the last acknowledgement."""
        self._recorder.on = records
        began = time.perf_counter()
        await asyncio.gather(*(_send(sender, each) for sender in self._senders))
        seconds = time.perf_counter() - began
        self._recorded_seconds += seconds if records else 0.0
        return len(self._senders) * each / seconds


def _from_nothing(described: target.Target) -> target.Target:
    """The target with each of its starts one of its command."""
    return msgspec.structs.replace(described, server=msgspec.structs.replace(described.server, fork=None))


@contextlib.asynccontextmanager
async def _load(server: str, toxiproxy: Toxiproxy, place: Path, count: int) -> AsyncIterator[_Load]:
    """A server with so many senders, whose messages all have to be stored exactly once."""
    run = scenario.Run("null", None, "persistent", None, {}, "python", _from_nothing(target.load(server)))
    recorder = _Switch(place / "history.jsonl")
    async with system.System(
        run,
        transport="websocket",
        toxiproxy=toxiproxy,
        runtime=Local(place),
        folder=place,
        recorder=recorder,
        random_numbers=random.Random(1),
        token="0123abcd",  # noqa: S106 - the name of a run
    ) as running:
        names = (first + second for first in string.ascii_lowercase for second in string.ascii_lowercase)
        senders = [await running.sender(name) for name in itertools.islice(names, count)]
        yield _Load(senders, recorder)
        rows = [h.identity_in("0123abcd", row.content) for row in await running.store.rows()]
        posted = [message.id for sender in senders for message in sender.messages]
        assert len(rows) == len(posted)
        assert set(rows) == set(posted)
    recorder.close()


async def _in_turn(loads: dict[str, _Load], each: int) -> dict[tuple[str, bool], list[float]]:
    """The rates of each server, with and without recording, in short slices that take turns.

    How long the disk takes for a flush changes from second to second, and by more than what is measured here: only
    slices side by side can be compared.
    """
    rates: dict[tuple[str, bool], list[float]] = {(name, records): [] for name in loads for records in (True, False)}
    for number in range(_SLICES):
        for name, records in sorted(rates, reverse=bool(number % 2)):
            rates[name, records].append(await loads[name].rate(each, records=records))
    return rates


def _print_rates(count: int, rates: dict[tuple[str, bool], list[float]], loads: dict[str, _Load]) -> None:
    senders = f"{count} sender" + ("" if count == 1 else "s")
    names = list(loads)
    for name in names:
        recorded, bare = rates[name, True], rates[name, False]
        overhead = statistics.median(b / r for r, b in zip(recorded, bare, strict=True)) - 1
        print(
            f"{senders}, {name}: {statistics.median(recorded):.0f} messages/s stored exactly once, without recording "
            f"{statistics.median(bare):.0f}, overhead {overhead:+.1%} (median of {len(bare)} pairs); "
            f"recording takes {loads[name].busy_share:.1%} of the time"
        )
    if len(names) > 1:
        ratio = statistics.median(b / a for a, b in zip(rates[names[0], True], rates[names[1], True], strict=True))
        print(f"{senders}: {names[1]} stores {ratio:.2f} times as many as {names[0]} in the same time")


async def _send(sender: system.AnySender, count: int) -> None:
    for _ in range(count):
        await sender.send("a message of some length")


async def _timed(work: Callable[[], Awaitable[None]]) -> float:
    began = time.perf_counter()
    await work()
    return time.perf_counter() - began


async def _bare(database: Path) -> None:
    async with _bare_server(database) as port:
        client = socketio.AsyncClient(reconnection=False, handle_sigint=False)
        await client.connect(f"http://127.0.0.1:{port}", transports=["websocket"])
        await client.call("chat message", ("hello", "offset"))
        await client.disconnect()


@contextlib.asynccontextmanager
async def _bare_server(database: Path) -> AsyncIterator[int]:
    """The reference server, when somebody can connect; its port."""
    reservation = ports.reserve()
    command = [sys.executable, "-m", "harness.targets.reference", "--port", str(reservation.port)]
    command += ["--database", str(database)]
    server = await asyncio.to_thread(subprocess.Popen, command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    async def accepts() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", reservation.port)
        except OSError:
            return False
        writer.close()
        return True

    await waiting.until(accepts, awaited="the server", timeout_seconds=10)
    yield reservation.port
    os.kill(server.pid, signal.SIGTERM)
    await asyncio.to_thread(server.wait)
    reservation.release()


if __name__ == "__main__":
    main()
