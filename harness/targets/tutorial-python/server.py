"""The server of Socket.IO's tutorial on client delivery, in Python: python-socketio on aiohttp, with SQLite.

As its users write it: the library's defaults, one connection to the database, and queries in the event loop (each takes
less than a millisecond, until somebody else writes: then everything waits, for up to the 5 s of sqlite3).
"""

import argparse
import sqlite3
from typing import Any

import socketio
from aiohttp import web

parser = argparse.ArgumentParser()
parser.add_argument("--host", default="127.0.0.1")
parser.add_argument("--port", type=int, default=3000)
parser.add_argument("--database", default="chat.db")
parser.add_argument("--ping-interval", type=float, metavar="SECONDS")
parser.add_argument("--ping-timeout", type=float, metavar="SECONDS")
options = parser.parse_args()

db = sqlite3.connect(options.database)
db.execute(
    "CREATE TABLE IF NOT EXISTS messages"
    " (id INTEGER PRIMARY KEY AUTOINCREMENT, client_offset TEXT UNIQUE, content TEXT)"
)

settings = {"ping_interval": options.ping_interval, "ping_timeout": options.ping_timeout}
sio = socketio.AsyncServer(async_mode="aiohttp", **{name: value for name, value in settings.items() if value})
app = web.Application()
sio.attach(app)


@sio.event
async def connect(sid: str, environ: dict[str, Any], auth: dict[str, Any] | None) -> None:
    """Send a client what it has missed."""
    offset = (auth or {}).get("serverOffset", 0)
    missed = db.execute("SELECT id, content FROM messages WHERE id > ? ORDER BY id", (offset,)).fetchall()
    for row_id, content in missed:
        await sio.emit("chat message", (content, row_id), to=sid)


@sio.on("chat message")
async def chat_message(sid: str, content: str, client_offset: str) -> None:
    """Store a message and tell everybody; what is returned acknowledges it, what is raised does not."""
    try:
        with db:
            row = db.execute("INSERT INTO messages (content, client_offset) VALUES (?, ?)", (content, client_offset))
    except sqlite3.IntegrityError:
        return  # it was stored before
    await sio.emit("chat message", (content, row.lastrowid))


if __name__ == "__main__":
    web.run_app(app, host=options.host, port=options.port, print=None)
