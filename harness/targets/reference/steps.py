"""What the server did with each message: one JSON line per step on standard output, as additional evidence."""

import contextlib
import json
import os
import sys
import time
from typing import Literal

Step = Literal["received", "stored", "duplicate", "refused", "broadcast", "acknowledged"]

_STANDARD_OUTPUT = 1


def record(
    step: Step,
    *,
    client_offset: str | None = None,
    row_id: int | None = None,
    length: int | None = None,
    error: str | None = None,
) -> None:
    """Write one line, unbuffered. Contents are not written, only their length.

    `acknowledged` says that the server answered; whether an answer goes out depends on the client having asked.
    """
    line = {
        "step": step,
        "client_offset": client_offset,
        "id": row_id,
        "length": length,
        "error": error,
        "time": time.time(),
    }
    # A full disk or a closed pipe behind the log must not decide what happens to a message.
    with contextlib.suppress(OSError):
        os.write(_STANDARD_OUTPUT, json.dumps(line).encode() + b"\n")


def complain(text: str) -> None:
    """Write one line for people, to standard error."""
    with contextlib.suppress(OSError):
        print(f"reference server: {text}", file=sys.stderr, flush=True)  # noqa: T201 - standard error is for people
