"""Node and its packages are found, or installed once, or their lack is one line. Nothing here is the real npm."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness import cache, node
from harness.__main__ import main
from harness.cache import InstallError
from tests.runs import PROJECT
from tests.standins import GENUINE, executable


@dataclass
class _Machine:
    """A machine with what a test puts on its PATH, and a cache of its own."""

    path: Path
    home: Path

    @property
    def cache(self) -> Path:
        """The harness's cache."""
        return self.home / "midemit"

    def put(self, name: str, script: str) -> None:
        """Put a program on PATH."""
        executable(self.path / name, f"#!/bin/sh\nPATH=/bin:/usr/bin\n{script}\n")

    def put_npm(self, before: str = "", after: str = "") -> None:
        """An `npm` that does what `npm ci` does, and notes how it was called."""
        work = f'echo "$@" >> {self.path}/npm.log\ntest -f package.json -a -f package-lock.json || exit 9'
        self.put("npm", f"{work}\n{before}\nmkdir -p node_modules/socket.io\n{after}")

    @property
    def calls(self) -> list[str]:
        """How `npm` was called."""
        log = self.path / "npm.log"
        return log.read_text().splitlines() if log.exists() else []

    def left(self) -> set[str]:
        """What is in the packages' folder of the cache."""
        folder = node.modules_folder(self.cache).parent
        return {path.name for path in folder.iterdir()} if folder.exists() else set()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Machine]:
    """A machine with Node 20 and an npm, and an empty cache."""
    there = _Machine(tmp_path / "path", tmp_path / "home")
    monkeypatch.setenv("PATH", str(there.path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(there.home))
    there.put("node", "echo v20.1.0")
    there.put_npm()
    node.lack.cache_clear()
    yield there
    node.lack.cache_clear()


# -- Node --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["v20.0.0", "v22.3.1", "v100.0.0-nightly"])
def test_node_that_is_new_enough_is_no_lack(machine: _Machine, version: str) -> None:
    """The oldest major version that will do, and newer ones."""
    machine.put("node", f"echo {version}")
    assert node.lack() is None


@pytest.mark.parametrize(
    ("program", "script", "lack"),
    [
        ("node", None, "there is no `node` on PATH"),
        ("npm", None, "there is no `npm` on PATH"),
        ("node", "echo v19.9.9", "`node --version` says 'v19.9.9'"),
        ("node", "echo v2.20.0", "`node --version` says 'v2.20.0'"),
        ("node", "echo hello", "`node --version` says 'hello'"),
        ("node", "echo 22.0.0", "`node --version` says '22.0.0'"),
        ("node", "exit 3", "`node --version` says nothing"),
        ("node", "kill -9 $$", "`node --version` says nothing"),
        ("node", "exec sleep 60", "`node --version` failed (`node --version` did not end within 0.3 s)"),
    ],
)
def test_what_node_lacks_is_one_line_with_what_helps(
    machine: _Machine, monkeypatch: pytest.MonkeyPatch, program: str, script: str | None, lack: str
) -> None:
    """No Node, no npm, one that is too old, prints something else or hangs: the reason, and how to install it."""
    monkeypatch.setattr(node, "_VERSION_TIMEOUT_SECONDS", 0.3)
    if script is None:
        (machine.path / program).unlink()
    else:
        machine.put(program, script)
    said = node.lack() or ""
    assert said.startswith(f"{lack}: install Node 20 or newer (")
    assert "\n" not in said
    with pytest.raises(InstallError) as caught:
        node.modules(machine.cache)
    assert str(caught.value) == said
    assert machine.left() == set()


# -- the packages ------------------------------------------------------------------------------------------------


def test_packages_are_installed_once_and_then_found(machine: _Machine) -> None:
    """`npm ci` runs where the lock file is; the next call needs neither npm nor Node."""
    installed = node.modules(machine.cache)
    assert installed == node.modules_folder(machine.cache)
    assert (installed / "socket.io").is_dir()
    for program in ("node", "npm"):
        (machine.path / program).unlink()
    node.lack.cache_clear()
    assert node.modules(machine.cache) == installed
    assert machine.calls == ["ci --no-audit --no-fund --loglevel=error"]
    assert machine.left() == {"lock", "node_modules"}


def test_packages_of_another_lock_file_have_another_folder(
    machine: _Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What an older version of the harness installed is not used by another one."""
    before = node.modules_folder(machine.cache)
    for name in ("package.json", "package-lock.json"):
        (tmp_path / name).write_text("{}")
    monkeypatch.setattr(node, "PACKAGES", tmp_path)
    assert node.modules_folder(machine.cache) != before


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'npm error network' >&2; echo more; exit 1", "exited with status 1 and printed 'npm error network"),
        ("kill -9 $$", "was ended by SIGKILL and printed nothing"),
        ("exec sleep 60", "did not end within 0.5 s"),
    ],
)
def test_npm_that_fails_is_a_one_line_error_and_leaves_nothing(
    machine: _Machine, monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    """Failure, a signal and silence are told, and the next call tries again."""
    monkeypatch.setattr(node, "_INSTALL_TIMEOUT_SECONDS", 0.5)
    machine.put_npm(after=script)
    with pytest.raises(InstallError) as caught:
        node.modules(machine.cache)
    assert str(caught.value).startswith("`npm ci ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert machine.left() == {"lock"}
    monkeypatch.setattr(node, "_INSTALL_TIMEOUT_SECONDS", 60)
    machine.put_npm()
    assert node.modules(machine.cache).is_dir()


def test_cache_that_cannot_be_made_is_a_one_line_error(machine: _Machine) -> None:
    """A file where the cache should be is told with its reason."""
    machine.home.mkdir()
    machine.cache.write_text("in the way")
    with pytest.raises(InstallError, match=r"^cannot install the Node packages into .*: Not a directory$"):
        node.modules(machine.cache)


def installing(machine: _Machine) -> "subprocess.Popen[str]":
    """Another process that wants the packages; it prints where they are."""
    code = "from harness import node; print(node.modules())"
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    return subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)


def test_several_processes_install_once(machine: _Machine) -> None:
    """One installs, the others wait for it, and all have the same folder."""
    machine.put_npm(before="sleep 1")
    processes = [installing(machine) for _ in range(3)]
    folders = {process.communicate(timeout=30)[0].strip() for process in processes}
    assert folders == {str(node.modules_folder(machine.cache))}
    assert len(machine.calls) == 1


def test_installer_that_is_killed_midway_leaves_nothing_half(machine: _Machine) -> None:
    """SIGKILL in the middle of `npm ci` leaves no folder of packages and no npm, and the next call succeeds."""
    machine.put_npm(after=f"sleep 0.5\necho $$ > {machine.path}/npm.pid\nexec sleep 60")
    process = installing(machine)
    pid = machine.path / "npm.pid"
    deadline = time.monotonic() + 20
    while not (pid.exists() and pid.read_text().strip()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=10)
    assert "node_modules" not in machine.left()
    while _runs(int(pid.read_text())):
        assert time.monotonic() < deadline, "npm outlives who started it"
        time.sleep(0.01)
    machine.put_npm()
    assert (node.modules(machine.cache) / "socket.io").is_dir()
    while machine.left() != {"lock", "node_modules"}:
        assert time.monotonic() < deadline, machine.left()
        time.sleep(0.01)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_versions_are_those_of_the_lock_file() -> None:
    """What decides outcomes is told by the version that is installed."""
    lock = json.loads((node.PACKAGES / "package-lock.json").read_text())
    assert node.versions()["socket.io"] == lock["packages"]["node_modules/socket.io"]["version"]
    assert {"socket.io-client", "engine.io", "sqlite3"} <= set(node.versions())


def test_lock_file_names_no_address() -> None:
    """The packages come from the registry that the user has configured, with their checksums."""
    packages = json.loads((node.PACKAGES / "package-lock.json").read_text())["packages"]
    assert [name for name, package in packages.items() if "resolved" in package] == []
    assert [name for name, package in packages.items() if name and "integrity" not in package] == []


# -- setup -------------------------------------------------------------------------------------------------------


def test_setup_gets_everything_and_says_where_it_is(machine: _Machine, capsys: pytest.CaptureFixture[str]) -> None:
    """Toxiproxy and the Node packages, each with its place."""
    executable(machine.path / "toxiproxy-server", GENUINE)
    assert main(["setup"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"Toxiproxy: {machine.path / 'toxiproxy-server'} (from PATH)" in lines
    assert lines[-1] == f"Node packages: {node.modules_folder(machine.cache)}"
    assert len(machine.calls) == 1


def test_setup_without_node_leaves_its_packages_out(machine: _Machine, capsys: pytest.CaptureFixture[str]) -> None:
    """A machine without Node is set up for the rest, and told what helps."""
    executable(machine.path / "toxiproxy-server", GENUINE)
    (machine.path / "node").unlink()
    assert main(["setup"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("Node packages: left out")
    assert "there is no `node` on PATH: install Node 20" in last
    assert machine.calls == []


def test_setup_that_fails_is_an_error(machine: _Machine, capsys: pytest.CaptureFixture[str]) -> None:
    """What cannot be installed is one line, and status 3."""
    executable(machine.path / "toxiproxy-server", GENUINE)
    machine.put_npm(after="exit 1")
    assert main(["setup"]) == 3
    said = capsys.readouterr().err
    assert said.startswith("error: `npm ci ")
    assert said.count("\n") == 1


# -- the cache ---------------------------------------------------------------------------------------------------


def test_command_is_run_to_its_end(tmp_path: Path) -> None:
    """Its status and both of its streams, where and with what it is told to run."""
    script = "pwd; echo $WORD >&2; cat; exit 4"
    found = cache.run(["/bin/sh", "-c", script], timeout_seconds=10, cwd=tmp_path, env={"WORD": "w\udcff"})
    assert found == (4, f"{tmp_path}\nw\ufffd\n")


def test_command_that_does_not_end_goes_with_all_that_it_started(tmp_path: Path) -> None:
    """At the deadline the whole group is killed."""
    script = f"sleep 60 & echo $! > {tmp_path}/pid; wait"
    with pytest.raises(InstallError, match=r"^`/bin/sh -c .* did not end within 0.5 s$"):
        cache.run(["/bin/sh", "-c", script], timeout_seconds=0.5)
    deadline = time.monotonic() + 10
    while _runs(int((tmp_path / "pid").read_text())):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_workplace_is_gone_whatever_happens_in_it(tmp_path: Path) -> None:
    """It is beside the place of installation, and leaves nothing there."""

    def half() -> None:
        with cache.workplace(tmp_path) as place:
            assert place.parent == tmp_path
            (place / "half").touch()
            raise LookupError

    with pytest.raises(LookupError):
        half()
    assert list(tmp_path.iterdir()) == []
