"""Mistake: gives up without a word.

Three tries are plenty, it was thought. After the last of them the message is dropped and the next one sent; nobody
who posted it is told.
"""

from ..client import Client, Post

TRIES = 3


async def deliver(client: Client, post: Post) -> None:
    """Send a message until it is acknowledged, or three times."""
    for _ in range(TRIES):
        if await client.attempt(post):
            client.settle(post)
            return


if __name__ == "__main__":
    Client(deliver).run()
