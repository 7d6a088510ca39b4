"""Mistake: takes a timeout for a failure.

No answer within the ack timeout was logged as "not sent", and the user told so. Only the answer was missing: the
message may be on its way, or in the database already.
"""

from ..client import Client, Post


async def deliver(client: Client, post: Post) -> None:
    """Send a message once it can be sent, and tell what came of it."""
    while not client.connected:
        await client.wait_a_moment()
    if await client.attempt(post, unanswered="fail"):
        client.settle(post)
    else:
        client.settle(post, "gave-up")


if __name__ == "__main__":
    Client(deliver).run()
