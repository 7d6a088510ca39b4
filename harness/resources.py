"""What a run needs of the machine. A shortage shows as something else, a server's silence say: so it is looked for."""

import os
import resource
from contextlib import ExitStack
from pathlib import Path

from harness.errors import HarnessError, reason

# A scenario with five senders takes about 40; one of somebody else may want more.
_DESCRIPTORS = 128
# What has to be free at any time: reading a database takes a few.
_FREE_DESCRIPTORS = 8
# More than the logs and the history of one run.
_FREE_BYTES = 500_000


def require(folder: Path) -> None:
    """Make sure that there are file descriptors, and that there is room in `folder`.

    Raises:
        HarnessError: one of them is short; the text says what helps.
    """
    require_descriptors()
    require_room(folder)


def nearest(folder: Path) -> Path:
    """The folder itself, or the nearest above it that is there."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())


def is_open(folder: Path) -> bool:
    """Whether it is a folder in which one can write."""
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def require_descriptors() -> None:
    """Make sure that enough files can be opened.

    Raises:
        HarnessError: they cannot; the text says what helps.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit != resource.RLIM_INFINITY and limit < _DESCRIPTORS:
        raise HarnessError(
            f"a process may open only {limit} files here, and the harness needs {_DESCRIPTORS}: "
            f"raise the limit with `ulimit -n {_DESCRIPTORS}` or more"
        )
    with ExitStack() as opened:
        for _ in range(_FREE_DESCRIPTORS):
            try:
                opened.callback(os.close, os.open(os.devnull, os.O_RDONLY))
            except OSError as error:
                raise HarnessError(f"no file descriptors are left: {reason(error)}") from error


def require_room(folder: Path) -> None:
    """Make sure that there is room on the disk of `folder`.

    Raises:
        HarnessError: there is not; the text says what helps.
    """
    disk = os.statvfs(folder)
    free_bytes = disk.f_bavail * disk.f_frsize
    # Some file systems do not say how big they are.
    if disk.f_blocks and free_bytes < _FREE_BYTES:
        raise HarnessError(
            f"no space left on the disk of {folder}: {free_bytes} bytes are free, and a run needs {_FREE_BYTES}; "
            "make room, or have reports written elsewhere with --reports"
        )
