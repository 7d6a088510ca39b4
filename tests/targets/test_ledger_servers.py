"""Each server of the ledger, and each correct one beside it, starts, serves one message and stops."""

import asyncio
import contextlib
import socket
import sqlite3
import sys
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import socketio

from harness import ports, waiting
from harness.process import ProcessGroup
from harness.targets.ledger import ENTRIES

LEDGER = {entry.name: entry.target for entry in ENTRIES}
_CORRECT_FOLDER = ENTRIES[0].target.parents[2] / "correct"
CORRECT = {path.parent.name: path for path in sorted(_CORRECT_FOLDER.glob("*/target.toml"))}
# Of a broken client the server is another target's.
TARGETS = {name: path for name, path in {**LEDGER, **CORRECT}.items() if (path.parent / "server.py").exists()}
# Generous, for a machine with other work: a server starts in 0.3 s and stops in 0.2 s.
TIMEOUT_SECONDS = 15.0
MESSAGE = "Grüße, \U0001f469\u200d\U0001f680 & <b>“Welt”</b>\n"


def test_ledger_lists_every_folder() -> None:
    """No broken server lies beside the table, where nothing would have to catch it."""
    root = ENTRIES[0].target.parents[1]
    assert sorted(path.parent for path in root.glob("*/target.toml")) == sorted(
        entry.target.parent for entry in ENTRIES
    )
    assert len(LEDGER) == len(ENTRIES) == 37


def test_correct_servers_are_found() -> None:
    """The four that must never be accused."""
    assert sorted(CORRECT) == ["ack_payload", "gaps", "no_echo", "on_conflict"]


@pytest.mark.parametrize("name", TARGETS)
def test_description_carries_the_name_of_its_folder(name: str) -> None:
    """What `--target` finds and what a report prints are the same word."""
    assert _description(name)["name"] == name


@pytest.mark.parametrize("name", TARGETS)
def test_server_stores_acknowledges_broadcasts_and_stops(name: str, tmp_path: Path) -> None:
    """Without a fault no server of the ledger shows what is wrong with it."""
    asyncio.run(_serve_one_message(name, tmp_path))


async def _serve_one_message(name: str, folder: Path) -> None:
    description = _description(name)
    port = ports.reserve()
    database = folder / "chat.db"
    names = {"python": sys.executable, "host": "127.0.0.1", "port": port.port, "database": database}
    server = ProcessGroup(
        [part.format_map(names) for part in description["server"]["command"]],
        cwd=TARGETS[name].parent / description["server"].get("cwd", "."),
        log=folder / "server.log",
    )
    try:
        await waiting.until(
            lambda: _listens(port.port),
            awaited=f"{name} to listen",
            timeout_seconds=TIMEOUT_SECONDS,
            last_seen=server.last_log_lines,
        )
        got: asyncio.Queue[tuple[str, int]] = asyncio.Queue()
        async with _client(port.port) as sender, _client(port.port) as receiver:
            receiver.on("chat message", lambda *row: got.put_nowait(row))
            await sender.call("chat message", (MESSAGE, "offset-1"), timeout=TIMEOUT_SECONDS)
            content, server_offset = await waiting.within(
                got.get(), awaited="the broadcast", timeout_seconds=TIMEOUT_SECONDS
            )
            assert (content, server_offset > 0) == (MESSAGE, True)
            assert _rows(database, description["store"]["rows"]) == [("offset-1", MESSAGE)]
            # While both are connected: a server that waits for its clients would not end.
            assert await server.stop(TIMEOUT_SECONDS), "it did not end on SIGTERM"
        assert server.exit_status == 0
        assert server.log.read_text() == ""
    finally:
        await server.kill()
        port.release()


@contextlib.asynccontextmanager
async def _client(port: int) -> AsyncIterator[Any]:
    client = socketio.AsyncClient(reconnection=False, handle_sigint=False)
    await client.connect(f"http://127.0.0.1:{port}", transports=["websocket"], auth={"serverOffset": 0})
    try:
        yield client
    finally:
        await client.disconnect()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _rows(database: Path, query: str) -> list[tuple[str, str]]:
    connection = sqlite3.connect(database)
    try:
        connection.row_factory = sqlite3.Row
        return [(row["client_offset"], row["content"]) for row in connection.execute(query)]
    finally:
        connection.close()


def _description(name: str) -> dict[str, Any]:
    return tomllib.loads(TARGETS[name].read_text())
