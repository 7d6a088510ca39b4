"""The harness's cache, where what it installs stays from run to run, and the running of what installs it."""

import contextlib
import fcntl
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from harness import reaper
from harness.errors import HarnessError


class InstallError(HarnessError):
    """Something that the harness needs is not there and cannot be installed; the text says what helps."""


def default_folder() -> Path:
    """`midemit` in `$XDG_CACHE_HOME` or `~/.cache`.

    Raises:
        InstallError: there is no home folder.
    """
    # The XDG specification: a relative path is to be ignored.
    configured = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        return (configured if configured.is_absolute() else Path.home() / ".cache") / "midemit"
    except RuntimeError:
        raise InstallError("there is no home folder to keep the cache in: set HOME, or XDG_CACHE_HOME") from None


@contextlib.contextmanager
def alone_in(home: Path) -> Iterator[Path]:
    """Be alone in installing. A holder that dies loses the lock, and each of a holder's steps has a deadline."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield home


@contextlib.contextmanager
def workplace(home: Path) -> Iterator[Path]:
    """A directory beside the place of installation, so that moving the finished program there is atomic."""
    with tempfile.TemporaryDirectory(dir=home, prefix="installing-") as place:
        reaper.hold("directory", place)
        yield Path(place)
    reaper.release("directory", place)


def run(
    command: Sequence[str], *, timeout_seconds: float, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Run a command to its end; what it started goes with it when the deadline passes or the user interrupts.

    Returns:
        Its exit status, and what it printed, both streams together.

    Raises:
        InstallError: it did not end in time.
        OSError: it cannot be started.
    """
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    reaper.hold("group", process.pid)
    try:
        with process:
            try:
                printed, _ = process.communicate(timeout=timeout_seconds)
            finally:
                # Before the leader is waited for: until then nobody else can get its number.
                if process.returncode is None:
                    os.killpg(process.pid, signal.SIGKILL)
    except subprocess.TimeoutExpired:
        raise InstallError(f"`{' '.join(command)}` did not end within {timeout_seconds:g} s") from None
    finally:
        reaper.release("group", process.pid)
    return process.returncode, printed.decode(errors="replace")
