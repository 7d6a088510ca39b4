"""Forks a server for each line on standard input: what takes long in a start, loading code, happens once."""

import contextlib
import gc
import json
import os
import select
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any, NoReturn


def serve_forks(serve: Callable[[list[str]], int]) -> int:
    """Fork for each JSON line, and tell of each child and of its end.

    A line is `{"command": [TEXT...], "env": {NAME: TEXT}, "log": PATH, "held": BOOLEAN}`.

    There must be one thread, and no event loop yet.

    Args:
        serve: runs in the child, with what would be its command; returns its exit status.

    Returns:
        0, when standard input has ended.
    """
    ended, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    gc.freeze()  # a collection in a fork would touch, and so copy, all that was loaded
    unread = b""
    while True:
        ready, _, _ = select.select([0, ended], [], [])
        if ended in ready:
            os.read(ended, 4096)
            _tell_of_the_dead()
        if 0 in ready:
            read = os.read(0, 65536)
            if not read:
                return 0
            *lines, unread = (unread + read).split(b"\n")
            for line in lines:
                wanted = json.loads(line)
                pid = os.fork()
                if pid == 0:
                    os.close(ended)
                    os.close(wake)
                    _become(serve, wanted)
                with contextlib.suppress(PermissionError):  # it may have done so itself, and have gone on
                    os.setpgid(pid, pid)
                _tell(pid=pid)


def _become(serve: Callable[[list[str]], int], wanted: Mapping[str, Any]) -> NoReturn:
    """Be a server of its own: in its own process group, and with nothing of its parent's but the code."""
    status = 1
    try:
        os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        nothing = os.open(os.devnull, os.O_RDONLY)
        output = os.open(wanted["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for descriptor, instead in ((0, nothing), (1, output), (2, output)):
            os.dup2(instead, descriptor)
        os.close(nothing)
        os.close(output)
        os.environ.update(wanted["env"])
        if wanted["held"]:
            os.kill(os.getpid(), signal.SIGSTOP)
        status = serve(wanted["command"])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _tell_of_the_dead() -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        _tell(pid=pid, status=os.waitstatus_to_exitcode(status))


def _tell(**told: int) -> None:
    os.write(1, json.dumps(told).encode() + b"\n")
