"""The reaper: what a dead harness left behind is ended, and nothing else."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from harness import engine, waiting
from tests import engines
from tests.standins import http_server, reply

TIMEOUT_SECONDS = 20.0
# A small harness: starts two groups, holds both, releases one, does what it is told, and says whom it started.
PROGRAM = """
import os, signal, subprocess, sys
from harness import reaper
held, released = (subprocess.Popen(["sleep", "300"], stdout=-3, start_new_session=True) for _ in range(2))
for group in (held, released):
    reaper.hold("group", group.pid)
reaper.release("group", released.pid)
for line in {hold!r}:
    reaper.hold(*line)
for line in {release!r}:
    reaper.release(*line)
{more}
print(held.pid, released.pid, reaper._reaper.pid, flush=True)
sys.stdin.read()
"""


def gone(pid: int) -> bool:
    """Whether nothing of a process runs any more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (OSError, IndexError):
        return True


def wait_until(condition: Callable[[], bool], awaited: str) -> None:
    """Wait for the reaper."""
    asyncio.run(waiting.until(condition, awaited=awaited, timeout_seconds=TIMEOUT_SECONDS))


@contextmanager
def harness(
    *, hold: list[tuple[str, str]] | None = None, release: list[tuple[str, str]] | None = None, more: str = ""
) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A small harness, and the ids of a held group, of a released one and of its reaper."""
    program = PROGRAM.format(hold=hold or [], release=release or [], more=more)
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        pids = [int(pid) for pid in process.stdout.readline().split()]
        try:
            yield process, pids
        finally:
            process.kill()
            for pid in pids[:2]:
                with suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)


@pytest.mark.parametrize("end", ["SIGKILL", "SIGTERM", "SIGINT", "exit"])
def test_what_a_dead_harness_held_is_ended(tmp_path: Path, end: str) -> None:
    """However a harness ends, what it held goes, what it released stays, and the reaper ends too."""
    held, released = tmp_path / "held", tmp_path / "released"
    for folder in (held, released):
        (folder / "deep" / "deeper").mkdir(parents=True)
        (folder / "deep" / "chat.db").write_text("rows")
    directories = [("directory", str(held)), ("directory", str(released))]
    with harness(hold=directories, release=directories[1:]) as (process, pids):
        held_group, released_group, reaper = pids
        assert not any(map(gone, pids))
        if end == "exit":
            process.communicate("", timeout=TIMEOUT_SECONDS)
        else:
            # To the whole group, as a terminal does.
            os.killpg(process.pid, getattr(signal, end))
        wait_until(lambda: gone(held_group), "the held group to end")
        wait_until(lambda: not held.exists(), "the held directory to go")
        wait_until(lambda: gone(reaper), "the reaper to end")
        assert not gone(released_group)
        assert (released / "deep" / "chat.db").read_text() == "rows"


def test_nothing_is_ended_while_the_harness_lives(tmp_path: Path) -> None:
    """The reaper only waits as long as the harness lives, also when it is asked to end like the harness's children."""
    with harness(hold=[("directory", str(tmp_path / "held"))]) as (process, pids):
        (tmp_path / "held").mkdir()
        os.killpg(process.pid, signal.SIGCONT)
        assert not any(map(gone, pids))
        assert (tmp_path / "held").exists()
        assert os.getsid(pids[2]) == pids[2]


def test_whole_group_is_ended(tmp_path: Path) -> None:
    """The children of a held group's leader end with it."""
    pids = tmp_path / "pids"
    more = f"""
family = subprocess.Popen(["sh", "-c", "sleep 300 & echo $$ $! > {pids}.new; mv {pids}.new {pids}; wait"],
                          start_new_session=True)
reaper.hold("group", family.pid)
"""
    with harness(more=more) as (process, _):
        wait_until(pids.exists, "the family")
        leader, child = map(int, pids.read_text().split())
        assert not gone(leader)
        assert not gone(child)
        process.kill()
        wait_until(lambda: gone(leader) and gone(child), "the family to end")


def test_directory_goes_although_a_group_keeps_writing_into_it(tmp_path: Path) -> None:
    """Groups end before directories go, so that no dying server leaves a file, or makes its directory again."""
    held = tmp_path / "held"
    more = f"""
writer = subprocess.Popen(["sh", "-c", "while :; do mkdir -p {held}/$n; n=$((n + 1)); : > {held}/file$n; done"],
                          stdout=-3, stderr=-3, start_new_session=True)
reaper.hold("directory", {str(held)!r})
reaper.hold("group", writer.pid)
"""
    with harness(more=more) as (process, pids):
        wait_until(lambda: (held / "file20").exists(), "the writer")
        process.kill()
        wait_until(lambda: gone(pids[2]), "the reaper to end")
        assert not held.exists()


def test_things_that_are_gone_already_do_not_keep_the_others(tmp_path: Path) -> None:
    """A group, a directory and an address that are gone already do not keep the reaper from what is left."""
    missing = [("group", "4190000"), ("directory", str(tmp_path / "missing")), ("url", "http://127.0.0.1:9/x")]
    (tmp_path / "held").mkdir()
    with harness(hold=[*missing, ("directory", str(tmp_path / "held"))]) as (process, pids):
        process.kill()
        wait_until(lambda: not (tmp_path / "held").exists(), "the held directory to go")
        wait_until(lambda: gone(pids[0]), "the held group to end")


def test_reaper_that_was_killed_is_replaced_and_forgets_nothing(tmp_path: Path) -> None:
    """When the reaper itself dies, the next thing that is held starts another one, which knows all earlier ones."""
    held = tmp_path / "held"
    held.mkdir()
    more = f"""
first = reaper._reaper
os.kill(first.pid, signal.SIGKILL)
first.wait()
reaper.hold("directory", {str(held)!r})
assert reaper._reaper is not first
"""
    with harness(more=more) as (process, pids):
        process.kill()
        wait_until(lambda: not held.exists(), "the held directory to go")
        wait_until(lambda: gone(pids[0]), "the group that the first reaper was told of to end")
        wait_until(lambda: gone(pids[2]), "the second reaper to end")
        assert not gone(pids[1])


def test_proxies_of_a_dead_harness_are_deleted() -> None:
    """A proxy on a Toxiproxy that is not ours is deleted there, and only the one that was held."""
    deleted: list[str] = []

    class Toxiproxy(BaseHTTPRequestHandler):
        def do_DELETE(self) -> None:
            deleted.append(self.path)
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Toxiproxy) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        urls = [("url", f"http://127.0.0.1:{server.server_port}/proxies/{name}") for name in ("held", "released")]
        with harness(hold=urls, release=urls[1:]) as (process, pids):
            process.kill()
            wait_until(lambda: gone(pids[2]), "the reaper to end")
        server.shutdown()
        thread.join(TIMEOUT_SECONDS)
    assert deleted == ["/proxies/held"]


@engines.needed
def test_containers_and_networks_of_a_dead_harness_are_removed() -> None:
    """Those with the label that was held, running ones, too, and neither others nor those that were released."""
    name = f"midemit-test-{uuid.uuid4().hex[:8]}"
    labels = {which: f"midemit.test={name}-{which}" for which in ("held", "released", "other")}
    held, released = ([("engine", f"{engine.address()} {labels[which]}")] for which in ("held", "released"))
    with engines.connected() as client, ExitStack() as stack:
        for which, label in labels.items():
            key, _, value = label.partition("=")
            stack.enter_context(engines.things(client, f"{name}-{which}", {key: value}, ["sleep", "300"]))
        with harness(hold=[*held, *released], release=released) as (process, pids):
            assert len(engines.present(client, f"{name}-held")) == 3
            process.kill()
            wait_until(lambda: gone(pids[2]), "the reaper to end")
        assert engines.present(client, f"{name}-held") == [f"volume {name}-held"]
        assert len(engines.present(client, f"{name}-released")) == 3
        assert len(engines.present(client, f"{name}-other")) == 3


@engines.needed
def test_container_that_was_under_way_when_its_harness_died_is_removed() -> None:
    """The engine goes on making what was asked for, and the reaper looks again."""
    name = f"midemit-test-{uuid.uuid4().hex[:8]}"
    more = f"""
import http.client, socket, urllib.parse
asked = http.client.HTTPConnection("localhost")
asked.sock = socket.socket(socket.AF_UNIX)
asked.sock.connect({engine.address().removeprefix("unix://")!r})
body = '{{"Image": "{engines.IMAGES.server}", "Labels": {{"midemit.test": "{name}"}}}}'
asked.request("POST", "/containers/create?name={name}", body, {{"Content-Type": "application/json"}})
"""
    with engines.connected() as client:
        held = [("engine", f"{engine.address()} midemit.test={name}")]
        with harness(hold=held, more=more) as (process, pids):
            process.kill()
            wait_until(lambda: gone(pids[2]), "the reaper to end")
        assert engines.present(client, name) == []


@pytest.mark.parametrize(("status", "length_bytes"), [(500, None), (200, 1000)], ids=["error", "cut off"])
def test_engine_that_is_out_of_order_does_not_keep_the_rest(
    tmp_path: Path, status: int, length_bytes: int | None
) -> None:
    """Whether it answers with an error or dies while it answers, the directories go."""
    (tmp_path / "held").mkdir()
    with http_server(lambda request: reply(request, status, b'{"message": "no"}', length_bytes)) as url:
        held = [("engine", f"{url} a=b"), ("directory", str(tmp_path / "held"))]
        with harness(hold=held) as (process, pids):
            process.kill()
            wait_until(lambda: gone(pids[2]), "the reaper to end")
    assert not (tmp_path / "held").exists()
