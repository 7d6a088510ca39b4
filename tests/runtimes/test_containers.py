"""Servers and Toxiproxy in containers: they live, stand still, are cut off and end as those of this machine do."""

import asyncio
import contextlib
import os
import signal
import socket
import urllib.request
import uuid
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import docker.errors
import pytest

from harness import engine, target, waiting
from harness import history as h
from harness.errors import HarnessError, TargetError
from harness.process import Process
from harness.runtimes import Address, Images, Wanted
from harness.runtimes.container import Container
from harness.runtimes.containers import ContainerHost, Containers
from harness.server import Server
from harness.target import Target, of_run, put
from harness.toxiproxy import PortTaken
from tests import engines
from tests.engines import IMAGES, runtime
from tests.standins import image_target
from tests.systems import DEADLINE_SECONDS, in_event_loop, make_store, seen, soon

pytestmark = engines.needed

# Long enough for what would have happened: it takes milliseconds.
WHILE_SECONDS = 0.3
FIXED = image_target("fixed", IMAGES.server)
ECHO = """
import socket, sys
with socket.create_server(("0.0.0.0", int(sys.argv[1]))) as server:
    while True:
        connection, _ = server.accept()
        while part := connection.recv(1000):
            connection.sendall(part)
"""


def described(folder: Path, text: str) -> Target:
    """A target description."""
    path = folder / "target.toml"
    path.write_text(text)
    return target.load(str(path))


class Place:
    """Where the servers of a run are containers, with what a run has: a folder, an address and a log.

    Attributes:
        exits: the exit statuses that were told.
    """

    def __init__(self, containers: Containers, on: Target, host: ContainerHost, address: Address, folder: Path) -> None:
        self.containers = containers
        self.target = on
        self.host = host
        self.address = address
        self.folder = folder
        self.log = folder / "server.log"
        self.exits: list[int] = []

    async def start(self, *command: str, held: bool = False, unprivileged: bool = False, **env: str) -> Container:
        """Start a command."""
        wanted = Wanted(command, env, held=held, unprivileged=unprivileged)
        started = await self.host.start(wanted, log=self.log, on_exit=self.exits.append)
        assert isinstance(started, Container)
        return started

    async def shell(self, command: str, **options: Any) -> Container:
        """Start a shell command, in which `$0` is the folder."""
        return await self.start("sh", "-c", command, str(self.folder), **options)

    async def target_started(self) -> Container:
        """Start the target's server, which is not ready yet."""
        values = {**self.host.placeholders, **of_run(self.address.port, self.folder / "store.db")}
        return await self.start(*(put(text, values) for text in self.target.server.command))

    async def accepts(self, process: Process) -> None:
        """Wait until the server accepts connections."""
        await waiting.until(
            lambda: self.host.accepts(self.address, process),
            awaited="the server to listen",
            timeout_seconds=DEADLINE_SECONDS,
            last_seen=self.printed,
        )

    def printed(self) -> str:
        """What was printed so far."""
        return self.log.read_text()

    async def serve(self) -> None:
        """Start the target's server as a run does, and wait until it is ready."""
        recorder = h.Recorder(self.folder / "history.jsonl")
        server = Server(
            self.target,
            host=self.host,
            address=self.address,
            database=self.folder / "store.db",
            log=self.log,
            recorder=recorder,
            store=make_store(self.folder / "store.db"),
            control=None,
            patience_seconds=DEADLINE_SECONDS,
            moves=self.host.address,
        )
        try:
            await server.start()
        finally:
            recorder.close()


@contextlib.asynccontextmanager
async def placed(folder: Path, on: Target | None = None, containers: Containers | None = None) -> AsyncIterator[Place]:
    """A place for servers of a target, by default of the reference; what is left of them is killed at the end."""
    on = on or target.load("reference")
    async with contextlib.AsyncExitStack() as stack:
        if containers is None:
            containers = await stack.enter_async_context(runtime())
        host = await containers.host(on, folder)
        address = await host.address()
        stack.callback(address.release)
        place = Place(containers, on, host, address, folder)
        begun = stack.enter_context(pytest.MonkeyPatch.context())
        started: list[Container] = []
        launched = containers.launched

        async def remembered(*args: Any, **options: Any) -> Container:
            started.append(await launched(*args, **options))
            return started[-1]

        begun.setattr(containers, "launched", remembered)
        try:
            yield place
        finally:
            for container in started:
                await container.kill()


def answer(port: int) -> int:
    """The status of what a Socket.IO server on a published port answers."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/socket.io/?EIO=4&transport=polling", timeout=5) as answered:
        status: int = answered.status
        return status


def command_line(pid: int) -> str:
    """What a process runs; nothing when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
    except OSError:
        return ""


def names(*kinds: str) -> list[str]:
    """What this process has on the engine."""
    with engines.connected() as client:
        found = engines.labelled(client, f"{engine.OWNER}={engine.owner()}")
    return [name for name in found if not kinds or name.startswith(kinds)]


# -- life and death ----------------------------------------------------------------------------------------------


@in_event_loop
async def test_server_is_ready_when_it_listens(tmp_path: Path) -> None:
    """And not before, although the engine accepts connections to what it publishes."""
    async with placed(tmp_path) as place:
        waits = 'until test -e "$0/go"; do sleep 0.02; done; exec "$@"'
        values = {**place.host.placeholders, **of_run(place.address.port, tmp_path / "store.db")}
        command = [put(text, values) for text in place.target.server.command]
        server = await place.start("sh", "-c", waits, str(tmp_path), *command)
        with socket.create_connection(("127.0.0.1", place.address.published), 5):
            assert not await place.host.accepts(place.address, server)
        (tmp_path / "go").touch()
        await place.accepts(server)
        assert await asyncio.to_thread(answer, place.address.published) == 200
        assert (tmp_path / "store.db").exists()


@in_event_loop
async def test_killed_server_is_gone(tmp_path: Path) -> None:
    """SIGKILL is its end, and its container is removed; a second time does no harm."""
    async with placed(tmp_path) as place:
        server = await place.target_started()
        await place.accepts(server)
        assert server.exit_status is None
        pids = server.pids()
        assert server.pid in pids
        for _ in range(2):
            assert await soon(server.kill()) == -signal.SIGKILL
        assert server.exit_status == -signal.SIGKILL
        assert place.exits == [-signal.SIGKILL]
        assert not any(map(command_line, pids))
        assert not await place.host.accepts(place.address, server)
        with engines.connected() as client, pytest.raises(docker.errors.NotFound):
            client.containers.get(server._container.id)
        assert await server.stop(DEADLINE_SECONDS)
        server.resume()


@pytest.mark.parametrize(("command", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -SEGV $$", -signal.SIGSEGV)])
@in_event_loop
async def test_end_of_its_own_has_its_status(tmp_path: Path, command: str, status: int) -> None:
    """Of a signal, too; and what it printed is there."""
    async with placed(tmp_path) as place:
        server = await place.shell(f"echo here I was; {command}")
        assert await soon(server.wait()) == status
        assert place.exits == [status]
        assert server.last_log_lines().strip() == "here I was"
        assert await soon(server.kill()) == status
        assert place.exits == [status]


@in_event_loop
async def test_next_server_listens_where_the_one_before_did(tmp_path: Path) -> None:
    """At once, one after the other."""
    async with placed(tmp_path) as place:
        for _ in range(3):
            server = await place.target_started()
            await place.accepts(server)
            assert await asyncio.to_thread(answer, place.address.published) == 200
            await server.kill()
        assert place.exits == [-signal.SIGKILL] * 3


@pytest.mark.parametrize("stubborn", [False, True])
@in_event_loop
async def test_server_is_asked_to_stop(tmp_path: Path, stubborn: bool) -> None:
    """SIGTERM, and SIGKILL for one that goes on."""
    async with placed(tmp_path) as place:
        trap = "trap '' TERM" if stubborn else "trap 'exit 3' TERM"
        server = await place.shell(f"{trap}; echo ready; while :; do sleep 0.02; done")
        await seen(lambda: "ready" in place.printed(), "the trap")
        assert await server.stop(1.0 if stubborn else DEADLINE_SECONDS) is not stubborn
        assert place.exits == [-signal.SIGKILL if stubborn else 3]


# -- standing still ----------------------------------------------------------------------------------------------

TICKS = 'while :; do echo >> "$0/ticks"; sleep 0.01; done'


def ticks(folder: Path) -> int:
    """How often a shell command has ticked."""
    return (folder / "ticks").stat().st_size if (folder / "ticks").exists() else 0


@in_event_loop
async def test_paused_server_stands_until_it_is_resumed(tmp_path: Path) -> None:
    """Where it was."""
    async with placed(tmp_path) as place:
        server = await place.shell(TICKS)
        await seen(lambda: ticks(tmp_path) > 3, "ticks")
        await server.pause()
        before = ticks(tmp_path)
        await waiting.pause(WHILE_SECONDS)
        assert ticks(tmp_path) == before
        server.resume()
        await seen(lambda: ticks(tmp_path) > before + 3, "ticks")
        assert place.exits == []


@in_event_loop
async def test_paused_server_is_killed_like_any_other(tmp_path: Path) -> None:
    """It need not go on for that."""
    async with placed(tmp_path) as place:
        server = await place.shell(TICKS)
        await server.pause()
        before = ticks(tmp_path)
        assert await soon(server.kill()) == -signal.SIGKILL
        assert ticks(tmp_path) == before


@pytest.mark.parametrize("image", [False, True], ids=["command", "image"])
@in_event_loop
async def test_held_server_stands_before_its_first_call(tmp_path: Path, image: bool) -> None:
    """Until it is resumed; one of an image of its own, too."""
    async with placed(tmp_path, described(tmp_path, FIXED) if image else None) as place:
        server = await place.shell('echo >> "$0/ticks"; exec sleep 300', held=True)
        await server.stopped()
        await waiting.pause(WHILE_SECONDS)
        assert ticks(tmp_path) == 0
        server.resume()
        await seen(lambda: ticks(tmp_path) == 1, "the first call")
        await seen(lambda: command_line(server.pid) == "sleep 300", "it to become what it is to be")


@in_event_loop
async def test_command_of_an_image_can_be_held(tmp_path: Path) -> None:
    """It is the one that the image has."""
    async with placed(tmp_path, described(tmp_path, FIXED)) as place:
        server = await place.start(held=True)
        await server.stopped()
        assert not await place.host.accepts(place.address, server)
        server.resume()
        await place.accepts(server)
        assert " -m harness.targets.reference " in command_line(server.pid)


@in_event_loop
async def test_idle_server_has_nothing_to_do(tmp_path: Path) -> None:
    """One that works is not, and one that waits is."""
    async with placed(tmp_path) as place:
        server = await place.target_started()
        await place.accepts(server)
        await soon(server.idle())
        await server.kill()


# -- what it may and what it tells -------------------------------------------------------------------------------


@pytest.mark.parametrize("unprivileged", [True, False])
@in_event_loop
async def test_permission_bits_bind_a_server_without_privileges(tmp_path: Path, unprivileged: bool) -> None:
    """It cannot write to a store that is read-only; root can."""
    (tmp_path / "store.db").touch(0o400)
    async with placed(tmp_path) as place:
        server = await place.shell('echo row >> "$0/store.db"', unprivileged=unprivileged)
        status = await soon(server.wait())
        await server.kill()
    assert (status == 0) is (not unprivileged and os.geteuid() == 0)
    assert ("Permission denied" in place.printed()) is (status != 0)


@pytest.mark.parametrize("shared", [Path("harness"), Path("tests")])
@in_event_loop
async def test_server_may_write_into_the_folder_of_its_run_only(tmp_path: Path, shared: Path) -> None:
    """The harness's own code is there to be read; what the target does not need is not there."""
    place_of_code = Path(engine.__file__).parent.parent / shared
    async with placed(tmp_path) as place:
        server = await place.shell(f'touch "$0/mine"; ls {place_of_code}; touch {place_of_code}/not-mine')
        assert await soon(server.wait()) != 0
        await server.kill()
    assert (tmp_path / "mine").exists()
    assert not (place_of_code / "not-mine").exists()
    assert ("engine.py" in place.printed()) is (shared == Path("harness"))


VALUE = "s3cret-of-mine"
PRINTS = """
import hashlib, os, sys, time
secret = os.environ["MIDEMIT_TEST_SECRET"]
print("begin", len(secret), secret, secret, flush=True)
for part in ("in parts: ", secret[:5], secret[5:], "; and ", secret, "\\n"):
    sys.stderr.write(part)
    sys.stderr.flush()
    time.sleep(0.05)
print("end", end="")
"""


@pytest.mark.parametrize("secret", [VALUE, f"first {VALUE}\nsecond {VALUE}"], ids=["line", "lines"])
@in_event_loop
async def test_value_that_is_passed_on_is_in_no_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secret: str
) -> None:
    """The server has it; what else it prints is there, and so is the end without a line's."""
    monkeypatch.setenv("MIDEMIT_TEST_SECRET", secret)
    monkeypatch.setenv("MIDEMIT_TEST_PREFIX", secret[:4])
    passed = '[container]\npass_environment = ["MIDEMIT_TEST_PREFIX", "MIDEMIT_TEST_SECRET"]'
    async with placed(tmp_path, described(tmp_path, FIXED.replace("[container]", passed))) as place:
        server = await place.start("python3", "-c", PRINTS)
        assert await soon(server.wait()) == 0
        await server.kill()
    printed = place.printed()
    assert f"begin {len(secret)} ***" in printed
    assert "in parts: ***" in printed
    assert printed.endswith("end")
    assert not any(word in printed for word in ("s3cret", "of-mine"))


@in_event_loop
async def test_environment_of_the_target_is_passed_on_in_its_order(tmp_path: Path) -> None:
    """What a start adds wins over what the description says."""
    async with placed(tmp_path) as place:
        server = await place.shell("echo $ONE", ONE="two")
        await server.wait()
        await server.kill()
    assert place.printed() == "two\n"


# -- the network -------------------------------------------------------------------------------------------------


@in_event_loop
async def test_taken_port_keeps_a_server_from_starting(tmp_path: Path) -> None:
    """Somebody else listens there; it ends by itself, and afterwards it can start."""
    async with placed(tmp_path) as place:
        async with place.host.taken(place.address):
            server = await place.target_started()
            assert await soon(server.wait()) not in (0, -signal.SIGKILL)
            assert "Address already in use" in server.last_log_lines()
            await server.kill()
        server = await place.target_started()
        await place.accepts(server)


@contextlib.asynccontextmanager
async def talking(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection."""
    reader, writer = await soon(asyncio.open_connection("127.0.0.1", port))
    try:
        yield reader, writer
    finally:
        writer.close()
        await writer.wait_closed()


@in_event_loop
async def test_partition_keeps_everything_back_and_ends_no_connection(tmp_path: Path) -> None:
    """No byte gets through while it lasts; afterwards what was sent arrives, and a new connection can be made."""
    async with placed(tmp_path) as place:
        toxiproxy = await place.containers.toxiproxy(tmp_path / "toxiproxy.log")
        try:
            server = await place.start("python3", "-c", ECHO, str(place.address.port))
            await place.accepts(server)
            proxy = await toxiproxy.proxy("echo", place.address.port, place.address.host)
            async with talking(proxy.port) as (reader, writer):
                writer.write(b"one")
                assert await soon(reader.readexactly(3)) == b"one"
                async with place.host.partitioned():
                    writer.write(b"two")
                    with pytest.raises(waiting.WaitTimeout):
                        await waiting.within(reader.read(1), awaited="a byte", timeout_seconds=1)
                assert await soon(reader.readexactly(3)) == b"two"
                assert server.exit_status is None
            async with talking(proxy.port) as (reader, writer):
                writer.write(b"three")
                assert await soon(reader.readexactly(5)) == b"three"
        finally:
            await toxiproxy.stop()


@in_event_loop
async def test_image_with_a_port_of_its_own_is_reached_at_another_one(tmp_path: Path) -> None:
    """It runs the image's own command, and its store is in the run's folder."""
    async with placed(tmp_path, described(tmp_path, FIXED)) as place:
        assert place.address.port == 3000
        assert place.address.published != 3000
        server = await place.start()
        await place.accepts(server)
        assert await asyncio.to_thread(answer, place.address.published) == 200
        assert (tmp_path / "chat.db").exists()


@in_event_loop
async def test_file_of_a_run_is_where_its_volume_is(tmp_path: Path) -> None:
    """The server calls it by its path in the container; what is in no volume of the run has one path for both."""
    async with placed(tmp_path, described(tmp_path, FIXED)) as place:
        assert place.host.path(tmp_path / "chat.db") == Path("/data/chat.db")
        assert place.host.path(tmp_path.parent / "x.db") == tmp_path.parent / "x.db"
    async with placed(tmp_path) as place:
        assert place.host.path(tmp_path / "chat.db") == tmp_path / "chat.db"


@in_event_loop
async def test_two_servers_with_one_port_do_not_meet(tmp_path: Path) -> None:
    """Each has a network of its own, and one that is given back is used again."""
    async with runtime() as containers:
        host = await containers.host(described(tmp_path, FIXED), tmp_path)
        one, other = await host.address(), await host.address()
        assert one.port == other.port == 3000
        assert one.host != other.host
        assert one.published != other.published
        one.release()
        again = await host.address()
        assert (again.host, again.published) == (one.host, one.published)
        assert len(names("container")) == 2


@in_event_loop
async def test_servers_that_are_told_their_ports_share_a_network(tmp_path: Path) -> None:
    """As long as there are ports in it."""
    async with runtime() as containers:
        host = await containers.host(target.load("reference"), tmp_path)
        addresses = [await host.address() for _ in range(5)]
        assert len({address.port for address in addresses}) == 5
        assert [address.host == addresses[0].host for address in addresses] == [True] * 4 + [False]


@in_event_loop
async def test_two_runtimes_do_not_meet(tmp_path: Path) -> None:
    """Each has its own network; the end of one is nothing to the other."""
    fixed = described(tmp_path, FIXED)
    folders = [tmp_path / "one", tmp_path / "other"]
    for folder in folders:
        folder.mkdir()
    async with runtime("one") as one, placed(folders[0], fixed, one) as first:
        server = await first.start()
        async with runtime("other") as other, placed(folders[1], fixed, other) as second:
            assert len(names("network")) == 2
            await second.accepts(await second.start())
            connects = f"import socket; socket.create_connection(({first.address.host!r}, 3000), 1)"
            outside = await second.start("python3", "-c", connects)
            assert await soon(outside.wait()) == 1
        await first.accepts(server)
        assert await asyncio.to_thread(answer, first.address.published) == 200
        assert len(names("network")) == 1


# -- what goes wrong ---------------------------------------------------------------------------------------------


def required(images: Images, *targets: Target) -> str:
    """What is said of what is missing."""
    containers = Containers(engine.connect(), "test", images)
    try:
        with pytest.raises(HarnessError) as caught:
            containers.require(targets)
    finally:
        asyncio.run(containers.close())
    assert names() == []
    return str(caught.value)


@pytest.mark.parametrize("which", ["toxiproxy", "server", "container"])
def test_missing_image_is_told_with_what_names_it(tmp_path: Path, which: str) -> None:
    """It is pulled, and that fails."""
    missing = "127.0.0.1:1/nobody/nothing:1"
    on, given_by = target.load("reference"), f"--image-{which}"
    if which == "container":
        on, given_by = described(tmp_path, FIXED.replace(IMAGES.server, missing)), "container.image"
    images = IMAGES._replace(**{which: missing}) if which in Images._fields else IMAGES
    said = required(images, on)
    assert said.startswith(f"there is no image {missing} on this machine, and it cannot be pulled (")
    assert said.endswith(f": check its name ({given_by}), `docker login` to its registry if that is yours, or build it")


def test_image_that_no_target_needs_may_be_missing(tmp_path: Path) -> None:
    """That of commands is not needed by an image."""
    containers = Containers(engine.connect(), "test", IMAGES._replace(server="127.0.0.1:1/nothing:1"))
    containers.require([described(tmp_path, FIXED)])
    asyncio.run(containers.close())


def test_image_for_another_machine_is_told(tmp_path: Path) -> None:
    """It would not start, or slowly."""
    name = f"midemit-test-{uuid.uuid4().hex[:8]}:1"
    with engines.connected() as client:
        here = client.version()["Arch"]
        other = "arm64" if here == "amd64" else "amd64"
        engines.load(client, name, other)
        try:
            said = required(IMAGES, described(tmp_path, FIXED.replace(IMAGES.server, name)))
        finally:
            client.images.remove(name)
    assert said == (
        f"the image {name} is for {other}, and this machine is {here}: build it, or pull it with "
        f"`docker pull --platform linux/{here} {name}`, or name another one (container.image)"
    )


def test_variable_that_is_to_be_passed_on_has_to_be_set(tmp_path: Path) -> None:
    """Before anything starts."""
    text = FIXED.replace("[container]", '[container]\npass_environment = ["MIDEMIT_TEST_NOWHERE"]')
    assert required(IMAGES, described(tmp_path, text)) == (
        f"{tmp_path / 'target.toml'}: key `container.pass_environment`: MIDEMIT_TEST_NOWHERE is not set in your "
        "environment"
    )


async def refused(folder: Path, command: Sequence[str], more: str = "", image: str = IMAGES.server) -> str:
    """What is said of a server that does not start."""
    words = ", ".join(f'"{word}"' for word in command)
    text = FIXED.replace("[container]", f"[container]\ncommand = [{words}]") + f"[server]\n{more}\n"
    async with placed(folder, described(folder, text.replace(IMAGES.server, image))) as place:
        with pytest.raises(TargetError) as caught:
            await place.serve()
    return str(caught.value)


@in_event_loop
async def test_server_that_ends_at_once_is_told_with_its_last_lines(tmp_path: Path) -> None:
    """And its exit status."""
    assert await refused(tmp_path, ["sh", "-c", "echo I am broken; exit 5"]) == (
        "the server of fixed ended with exit status 5 before it was ready (tcp, port 3000). Its last lines:\n"
        "    I am broken"
    )


@in_event_loop
async def test_server_that_does_not_get_ready_is_told(tmp_path: Path) -> None:
    """And killed."""
    said = await refused(tmp_path, ["sh", "-c", "echo waiting; sleep 300"], "ready_timeout_seconds = 1")
    assert said == (
        "the server of fixed did not get ready within 1 s (tcp, port 3000). Nothing listens on port 3000 in its "
        "container: is container.port right? Its last lines:\n    waiting"
    )


@in_event_loop
async def test_command_that_is_not_in_the_image_is_told(tmp_path: Path) -> None:
    """By its name."""
    said = await refused(tmp_path, ["no-such-program"])
    assert "the server of fixed " in said
    assert "no-such-program" in said


@in_event_loop
async def test_image_that_is_removed_meanwhile_is_told(tmp_path: Path) -> None:
    """By its name."""
    said = await refused(tmp_path, ["sh"], image="midemit-test-nothing:1")
    assert said.startswith("the server of fixed cannot be started: there is no image midemit-test-nothing:1")


@in_event_loop
async def test_taken_published_port_is_told(tmp_path: Path) -> None:
    """Who chose it can choose another one; nothing is left of the container."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with runtime() as containers:
            with pytest.raises(PortTaken, match=str(port)):
                await containers.launched(
                    IMAGES.server, ["true"], log=tmp_path / "log", ports={"1/tcp": ("127.0.0.1", port)}
                )
            assert names() == []


@in_event_loop
async def test_container_that_somebody_else_removes_is_no_crash(tmp_path: Path) -> None:
    """It ends as one that is killed, or nobody knows how; and it can be killed."""
    async with placed(tmp_path) as place:
        server = await place.shell("sleep 300")
        await asyncio.to_thread(server._container.remove, force=True)
        with contextlib.suppress(HarnessError):
            assert await soon(server.wait()) == -signal.SIGKILL
