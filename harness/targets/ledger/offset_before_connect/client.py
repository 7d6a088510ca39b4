"""Mistake: makes the offset of an id that is not there yet.

The offset is the id of the connection and a counter, as in the tutorial, and made when the message is posted. Before
the first connection there is no id: every client's first message then has the offset `undefined-0`, and the server,
which knows a message by its offset, takes the second client's for the first one's.
"""

import itertools

from ..client import Client, Post

counter = itertools.count()


async def deliver(client: Client, post: Post) -> None:
    """Send a message under an offset of the connection until it is acknowledged."""
    named = {**post, "offset": f"{client.sid or 'undefined'}-{next(counter)}"}
    while not await client.attempt(named):
        pass
    client.settle(post)


if __name__ == "__main__":
    Client(deliver).run()
