"""Ends what a dead harness left behind: process groups, directories and proxies on somebody's Toxiproxy.

One small process stands beside each process of the harness and reads from a pipe what there is to end. The kernel
closes the pipe when the harness dies in any way, SIGKILL included; then the reaper ends what is left and exits.
This file runs as a script, in isolated mode and without site-packages, to start in a few milliseconds.
"""

import atexit
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, Literal

Kind = Literal["group", "directory", "url", "engine"]
"""A process group id to SIGKILL, a directory to remove, a URL to send DELETE to, or the address of a Docker engine and,
behind a space, a label of the containers and networks to remove from it."""

_PR_SET_PDEATHSIG = 1

_reaper: subprocess.Popen[str] | None = None
_held: dict[tuple[Kind, str], None] = {}


def stand_by() -> None:
    """Have the reaper there before there is something to hold: what is started must not wait for it.

    Raises:
        OSError: it cannot be started.
    """
    _pipe()


def hold(kind: Kind, name: str | int) -> None:
    """Have `name` ended if this process dies before it calls `release`."""
    _held[kind, str(name)] = None
    _say("hold", kind, str(name))


def release(kind: Kind, name: str | int) -> None:
    """Take back a `hold`: the thing is gone."""
    _held.pop((kind, str(name)), None)
    _say("release", kind, str(name))


def _say(verb: str, kind: Kind, name: str) -> None:
    pipe = _pipe()
    pipe.write(json.dumps([verb, kind, name]) + "\n")
    pipe.flush()


def _pipe() -> IO[str]:
    global _reaper
    if _reaper is None or _reaper.poll() is not None:
        _reaper = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # Ctrl-C in the terminal must not end the reaper first
        )
        atexit.register(_close, _reaper)
        assert _reaper.stdin is not None
        # One that was killed took with it what it had been told.
        _reaper.stdin.writelines(json.dumps(["hold", kind, name]) + "\n" for kind, name in _held)
    assert _reaper.stdin is not None
    return _reaper.stdin


def _close(reaper: "subprocess.Popen[str]") -> None:
    assert reaper.stdin is not None
    with contextlib.suppress(OSError):
        reaper.stdin.close()
    # One more Ctrl-C: it ends without us, too.
    with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
        reaper.wait(timeout=10)


def die_with(parent: int) -> None:
    """Have the kernel SIGKILL this process when `parent`, which started it, ends in any way (on Linux only).

    A worker of pytest-xdist would go on for seconds; what it has started is its own reaper's to end.
    """
    if not sys.platform.startswith("linux") or os.getppid() != parent:  # it may run on another machine
        return
    import ctypes  # needed by nobody else, and the reaper has to start quickly

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended meanwhile
        os.kill(os.getpid(), signal.SIGKILL)


def _clear_engine(address: str, label: str) -> None:
    """Remove the containers and the networks with a label, and look again: one can have been under way."""
    import http.client  # slow to import, and rarely needed
    import socket
    import time
    import urllib.parse

    parts = urllib.parse.urlsplit(address)

    def ask(method: str, path: str) -> bytes:
        connection = http.client.HTTPConnection(parts.hostname or "localhost", parts.port, timeout=30)
        if parts.scheme == "unix":
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(30)
            connection.sock.connect(parts.path)
        connection.request(method, path, headers={"Host": "localhost"})
        try:
            answer = connection.getresponse()
            return answer.read() if answer.status == http.client.OK else b"[]"
        except http.client.HTTPException as error:
            raise OSError(str(error)) from error

    only = urllib.parse.quote(json.dumps({"label": [label]}))
    for _ in range(2):
        for container in json.loads(ask("GET", f"/containers/json?all=1&filters={only}")):
            ask("DELETE", f"/containers/{container['Id']}?force=1&v=1")
        for network in json.loads(ask("GET", f"/networks?filters={only}")):
            ask("DELETE", f"/networks/{network['Id']}")
        time.sleep(1)  # what was asked for when its process died, the engine may still be making


def _main() -> None:
    held: dict[tuple[str, str], None] = {}
    for line in sys.stdin:
        verb, kind, name = json.loads(line)
        if verb == "hold":
            held[kind, name] = None
        else:
            held.pop((kind, name), None)
    # Processes first: they may still write into the directories.
    for kind, name in sorted(held, key=lambda thing: ["group", "engine", "url", "directory"].index(thing[0])):
        with contextlib.suppress(OSError):
            if kind == "group":
                os.killpg(int(name), signal.SIGKILL)
            elif kind == "directory":
                Path(name).chmod(0o700)  # a fault may have taken the permission
                shutil.rmtree(Path(name), ignore_errors=True)
            elif kind == "engine":
                _clear_engine(*name.split(" ", 1))
            else:
                import urllib.request  # slow to import, and rarely needed

                request = urllib.request.Request(name, method="DELETE")  # noqa: S310 - a Toxiproxy API address
                direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever HTTP_PROXY says
                direct.open(request, timeout=5).close()


if __name__ == "__main__":
    _main()
