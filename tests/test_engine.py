"""The Docker engine: which one will do, what is said of one that will not, and what is removed from it."""

import contextlib
import gc
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from harness import engine
from harness.__main__ import main
from harness.errors import HarnessError
from tests import engines
from tests.standins import http_server, reply, serving

# Sees a socket as somebody without privileges does; imported is first what only root may read.
AS_NOBODY = """
import os, sys
from harness import engine
from harness.errors import HarnessError
os.environ["DOCKER_HOST"] = sys.argv[1]
if os.geteuid() == 0:
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
try:
    engine.connect()
except HarnessError as error:
    print(error)
"""
SLEEP = ("sleep", "300")


# The library leaves what it could not connect to the garbage collection.
careless = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


def refused(monkeypatch: pytest.MonkeyPatch, address: str) -> str:
    """What is said of the engine at an address."""
    monkeypatch.setenv("DOCKER_HOST", address)
    with pytest.raises(HarnessError) as caught:
        engine.connect()
    said = str(caught.value)
    assert "\n" not in said
    del caught
    gc.collect()
    return said


# -- which engine ------------------------------------------------------------------------------------------------


@engines.needed
def test_engine_of_this_machine_will_do() -> None:
    """Its version can be told, and nothing lacks."""
    assert engine.lack() is None
    assert engine.version()[0].isdecimal()


@pytest.mark.parametrize(
    "address", ["tcp://192.0.2.1:2375", "https://docker.example.org:2376", "tcp://[2001:db8::1]:1"]
)
def test_engine_of_another_machine_will_not_do(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """That is said without asking it."""
    assert refused(monkeypatch, address) == (
        f"DOCKER_HOST is {address}, an engine on another machine: the harness has to reach published ports on "
        "127.0.0.1 and the database file. Unset DOCKER_HOST to use the engine of this machine"
    )


@pytest.mark.parametrize(
    "address",
    [
        "ssh://u@127.0.0.1",
        "npipe:////./pipe/d",
        "fd://",
        "x",
        "127.0.0.1:2375",
        "tcp://[::1",
        "tcp://127.0.0.1",
        "tcp://127.0.0.1:x",
        "tcp://127.0.0.1:99999",
    ],
)
def test_address_that_cannot_be_used_is_told_with_those_that_can(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """A scheme that means nothing here, and what is no address at all."""
    assert refused(monkeypatch, address) == (
        f"DOCKER_HOST is {address}, and the harness can use unix:///PATH or tcp://127.0.0.1:PORT"
    )


@careless
def test_missing_socket_is_told_with_what_installs_an_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing more is said, as nothing more is known."""
    assert refused(monkeypatch, "unix:///nowhere/docker.sock").startswith(
        "no Docker engine answers at unix:///nowhere/docker.sock: install one ("
    )


@careless
def test_socket_at_which_nobody_listens_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An engine that has ended leaves its socket."""
    with socket.socket(socket.AF_UNIX) as ended:
        ended.bind(str(tmp_path / "s"))
    address = f"unix://{tmp_path / 's'}"
    assert refused(monkeypatch, address).startswith(
        f"no Docker engine answers at {address}, though there is a socket ('Connection refused'): install one ("
    )


def test_port_at_which_nobody_listens_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what the system says."""
    address = "tcp://127.0.0.1:1"
    assert refused(monkeypatch, address) == f"no Docker engine answers at {address}: 'Connection refused'"


@pytest.mark.parametrize(("status", "body"), [(404, b"not here"), (200, b"hello"), (200, b"{}"), (500, b"{")])
def test_server_that_is_no_engine_is_told(monkeypatch: pytest.MonkeyPatch, status: int, body: bytes) -> None:
    """Whatever it answers."""
    with serving(status, body) as url:
        assert refused(monkeypatch, url.replace("http:", "tcp:")).startswith("no Docker engine answers at tcp://127.")


def test_engine_with_another_kernel_will_not_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in a virtual machine, as with Docker Desktop, or behind a port that leads to another machine."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        of_engine = {"ApiVersion": "1.41", "OSType": "linux", "KernelVersion": "6.0-linuxkit", "OperatingSystem": "VM"}
        reply(request, 200, json.dumps(of_engine).encode())

    with http_server(answer) as url:
        said = refused(monkeypatch, url.replace("http:", "tcp:"))
    assert said.startswith("the Docker engine runs on another kernel (VM, 6.0-linuxkit; here: ")
    assert platform.release() in said
    assert said.endswith("use an engine of this machine, which has to run Linux")


@pytest.mark.parametrize("closed", ["socket", "folder"])
def test_engine_that_is_somebody_elses_is_told_with_what_lets_us_in(closed: str) -> None:
    """Its socket is, or the folder that has it."""
    with tempfile.TemporaryDirectory(prefix="midemit-test-") as folder, socket.socket(socket.AF_UNIX) as listening:
        path = Path(folder) / "s"
        listening.bind(str(path))
        listening.listen()
        Path(folder).chmod(0o755)
        (path if closed == "socket" else Path(folder)).chmod(0)
        command = [sys.executable, "-c", AS_NOBODY, f"unix://{path}"]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        Path(folder).chmod(0o700)
    assert said == (
        f"you may not use the Docker engine at unix://{path} (permission denied): join its group, "
        "`sudo usermod -aG docker $USER`, and log in anew\n"
    )


# -- what is left ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def sleeping() -> Iterator["subprocess.Popen[bytes]"]:
    """A process."""
    with subprocess.Popen(SLEEP) as process:
        try:
            yield process
        finally:
            process.kill()


def test_owner_is_one_process_only() -> None:
    """It is the same as long as the process lives, and neither a later one of the same id nor another one's."""
    with sleeping() as one, sleeping() as other:
        named = engine.owner(one.pid)
        assert named == engine.owner(one.pid)
        assert named != engine.owner(other.pid)
        assert not engine._is_gone(named)
        pid, started, boot = named.split("-", 2)
        assert pid == str(one.pid)
        for impostor in (f"{pid}-{int(started) + 1}-{boot}", f"{pid}-{started}-{uuid.uuid4()}"):
            assert engine._is_gone(impostor)
    assert engine._is_gone(named)
    assert not engine._is_gone(engine.owner())
    assert engine.owner() == engine.owner(os.getpid())


def test_process_that_nobody_has_looked_after_is_gone() -> None:
    """A zombie runs no more, however long it is left."""
    with sleeping() as process:
        named = engine.owner(process.pid)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert engine._is_gone(named)


@pytest.mark.parametrize("label", ["", "x", "-", "0--", "4190000--", "1", "-1-1-1", "foo"])
def test_label_that_names_no_process_is_somebody_elses(label: str) -> None:
    """What has it was not made by the harness, and is left alone."""
    assert not engine._is_gone(label)


@engines.needed
def test_clean_removes_what_a_dead_process_has_left_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    """Containers that run, too, and networks and volumes; not those of a process that lives, nor others'."""
    name = f"midemit-test-{uuid.uuid4().hex[:8]}"
    with engines.connected() as client, contextlib.ExitStack() as stack:
        with sleeping() as process:
            of_process = {engine.OWNER: engine.owner(process.pid), engine.RUN: "gone"}
            stack.enter_context(engines.things(client, f"{name}-dead", of_process, SLEEP))
            alive = {engine.OWNER: engine.owner(), engine.RUN: "here"}
            ours = stack.enter_context(engines.things(client, f"{name}-alive", alive))
            others = stack.enter_context(engines.things(client, f"{name}-other", {"midemit": "", "owner": "1-1-1"}))
            engine.clean(client)
            assert len(engines.present(client, f"{name}-dead")) == 3
        assert main(["clean"]) == 0
        assert engines.present(client, f"{name}-dead") == []
        assert engines.present(client, f"{name}-alive") == ours
        assert engines.present(client, f"{name}-other") == others
    printed = capsys.readouterr().out
    assert printed.startswith(("removed container ", "nothing is left"))  # another run may have been sooner
    assert "alive" not in printed
    assert "other" not in printed


@careless
def test_clean_without_an_engine_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is told in one line, and the exit status is that of an error."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere")
    assert main(["clean"]) == 3
    gc.collect()
    assert capsys.readouterr().err.startswith("error: no Docker engine answers at unix:///nowhere: install one (")
