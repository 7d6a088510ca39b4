"""The command line: `python -m harness.targets.reference --port 3000 --database chat.db`."""

import argparse
import asyncio
import os
import re
import sys
from pathlib import Path

from . import steps
from .forks import serve_forks
from .server import AddressError, Settings, serve
from .storage import StorageError

_CRASH = "REFERENCE_CRASH"
_FORK = "--fork"


def main() -> int:
    """Serve until told to stop; with `--fork` and nothing else, serve in a fork for each line on standard input.

    Returns:
        The exit status: 0 after a graceful end, 1 when the server cannot start, 2 for wrong usage.
    """
    parser = _parser()  # before the forks: it takes a tenth of a start
    if sys.argv[1:] == [_FORK]:
        return serve_forks(lambda command: _serve(parser, command[1 + command.index(__package__ or "") :]))
    return _serve(parser, sys.argv[1:])


def _serve(parser: argparse.ArgumentParser, arguments: list[str]) -> int:
    options = parser.parse_args(arguments)
    try:
        crash_after_commits = _crash_point(os.environ.get(_CRASH))
    except ValueError as error:
        steps.complain(str(error))
        return 2
    settings = Settings(
        host=options.host,
        port=options.port,
        database=options.database,
        unique=not options.without_unique,
        journal="delete" if options.rollback_journal else "wal",
        acknowledges=not options.without_acknowledgement,
        ping_interval_seconds=options.ping_interval_seconds,
        ping_timeout_seconds=options.ping_timeout_seconds,
        crash_after_commits=crash_after_commits,
    )
    try:
        asyncio.run(serve(settings))
    except (AddressError, StorageError) as error:
        steps.complain(str(error))
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m harness.targets.reference",
        description="A Socket.IO chat server that stores every message exactly once and in order.",
        epilog=f"{_CRASH}=after-commit:N in the environment kills it right after the N-th message is committed. With "
        f"{_FORK} and nothing else it serves once for each line on standard input, in a fork.",
    )
    parser.add_argument("--port", type=_port, required=True, help="0 lets the system choose one")
    parser.add_argument("--database", type=Path, required=True, help="an SQLite file, created when missing")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--without-unique", action="store_true", help="store a repeated client offset again")
    parser.add_argument("--rollback-journal", action="store_true", help="SQLite's older journal, instead of a WAL")
    parser.add_argument("--without-acknowledgement", action="store_true", help="store, and acknowledge nothing")
    # Fractions are advertised to the clients as 0.
    parser.add_argument("--ping-interval-seconds", type=_whole_seconds, default=25, metavar="WHOLE_SECONDS")
    parser.add_argument("--ping-timeout-seconds", type=_seconds, default=20.0, metavar="SECONDS")
    return parser


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port")
    return int(text)


def _whole_seconds(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,8}", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of seconds from 1")
    return int(text)


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]+)?", text, re.ASCII) or float(text) < 0.001:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0.001")
    return float(text)


def _crash_point(text: str | None) -> int | None:
    if text is None:
        return None
    point = re.fullmatch(r"after-commit:([1-9][0-9]{0,17})", text, re.ASCII)
    if point is None:
        raise ValueError(f"{_CRASH}={text!r} is not after-commit:N with N from 1")
    return int(point[1])


if __name__ == "__main__":
    sys.exit(main())
