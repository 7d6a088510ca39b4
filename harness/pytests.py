"""A pytest of its own, for the commands that run it again and again."""

import subprocess
import sys
from collections.abc import Sequence
from typing import IO

from harness import reaper


def started(arguments: Sequence[str], printed: IO[bytes]) -> "subprocess.Popen[bytes]":
    """Start pytest in a session of its own, with what it prints going to a file.

    It is ended by the reaper if this process dies; who has seen it end releases it (`reaper.release("group", pid)`).
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=printed,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    reaper.hold("group", process.pid)
    return process
