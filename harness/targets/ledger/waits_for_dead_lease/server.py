"""Mistake: waits for the lease of a server that is dead.

Only one server may write, and each proves with a lease in the database that it lives: taken with the first message,
prolonged with each. Whoever starts after a kill waits until the lease of the dead one has run out, although it listens
already. Back within half a second is claimed; the length of a lease was not thought of.
"""

import asyncio
import sqlite3
import time
import uuid

from ..common import SCHEMA, Chat, insert_once

LEASE_SECONDS = 5.0
AGAIN_SECONDS = 0.05

chat = Chat(schema=f"{SCHEMA}; CREATE TABLE IF NOT EXISTS lease (id INTEGER PRIMARY KEY, holder TEXT, until REAL)")
holder = uuid.uuid4().hex


def store(database: sqlite3.Connection, content: str, client_offset: str) -> bool | None:
    """Store a message once under the own lease; None while another server has it."""
    now = time.time()
    taken = database.execute(
        "INSERT INTO lease VALUES (1, ?, ?) ON CONFLICT (id) DO UPDATE SET holder = excluded.holder,"
        " until = excluded.until WHERE holder = excluded.holder OR until < ?",
        (holder, now + LEASE_SECONDS, now),
    )
    return insert_once(database, content, client_offset) if taken.rowcount else None


async def store_in_turn(content: str, client_offset: str) -> bool:
    """Store a message once, as soon as no other server has the lease."""
    while True:
        stored = await chat.run(store, content, client_offset)
        if stored is not None:
            return stored
        await asyncio.sleep(AGAIN_SECONDS)


async def chat_message(_sid: str, content: str, client_offset: str) -> object:
    """Store the message, tell everybody, acknowledge; an unstored one is left to the client's resend."""
    try:
        stored = await store_in_turn(content, client_offset)
    except sqlite3.Error:
        return chat.sio.not_handled
    await chat.publish()
    return None if stored else chat.sio.not_handled


if __name__ == "__main__":
    chat.serve(chat_message)
