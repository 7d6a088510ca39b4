"""Mistake: puts a batch that failed behind what has been acknowledged since.

A message is acknowledged when it is in a journal on the disk, and a background task writes it to the table, with
others. What the journal holds is written at the start of the server, so that nothing is lost by a kill. When the table
is locked, the batch goes back into the queue: at its end, as `append` is what one has.
"""

import asyncio
import json
import os
import sqlite3
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..common import Chat

LARGEST_BATCH = 20
COLLECT_SECONDS = 0.02

queue: deque[tuple[str, str]] = deque()
writing = asyncio.Lock()
one_thread = ThreadPoolExecutor(1)  # one, for the order of the journal


class Journal:
    """The messages that were acknowledged since the start, one line each."""

    path = Path()

    def recover(self, database: sqlite3.Connection) -> None:
        """Write to the table what the journal holds, and empty it."""
        (*_, database_path) = database.execute("PRAGMA database_list").fetchone()
        self.path = Path(f"{database_path}.journal")
        if self.path.exists():
            store(database, [json.loads(line) for line in self.path.read_text().splitlines()])
        self.path.write_text("")

    def append(self, content: str, client_offset: str) -> None:
        """Add a message; it is on the disk when this returns."""
        with self.path.open("a") as lines:
            lines.write(json.dumps([client_offset, content]) + "\n")
            lines.flush()
            os.fsync(lines.fileno())


def store(database: sqlite3.Connection, batch: list[tuple[str, str]]) -> None:
    """Store messages, each once, all of them or none."""
    database.execute(
        "INSERT OR IGNORE INTO messages (client_offset, content)"
        " SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?)",
        (json.dumps(batch),),
    )


journal = Journal()
chat = Chat(opened=journal.recover)


async def write() -> None:
    """Write and publish what is in the queue."""
    async with writing:
        while queue:
            await asyncio.sleep(COLLECT_SECONDS)
            batch = [queue.popleft() for _ in range(min(LARGEST_BATCH, len(queue)))]
            try:
                await chat.run(store, batch)
            except sqlite3.Error:
                queue.extend(batch)
        await chat.publish()


async def chat_message(_sid: str, content: str, client_offset: str) -> None:
    """Acknowledge the message as soon as the journal has it."""
    await asyncio.get_running_loop().run_in_executor(one_thread, journal.append, content, client_offset)
    queue.append((client_offset, content))
    chat.start(write())


if __name__ == "__main__":
    chat.serve(chat_message)
