"""Mistake: broadcasts a preview.

Long messages made the clients slow, so live broadcasts carry their beginning only. The whole text is in the database,
and in the replay, which is where it was tested.
"""

from ..common import Chat

PREVIEW_CHARACTERS = 60


class PreviewChat(Chat):
    """A chat that tells those who are there less than those who come back."""

    async def broadcast(self, content: str, row_id: int) -> None:
        """Send the beginning of one message to everybody whose replay is over."""
        await super().broadcast(content[:PREVIEW_CHARACTERS], row_id)


chat = PreviewChat()


async def chat_message(_sid: str, content: str, client_offset: str) -> object:
    """Store the message, tell everybody, acknowledge; refuse an offset that is another message's."""
    if not await chat.store(content, client_offset):
        return chat.sio.not_handled
    await chat.publish()
    return None


if __name__ == "__main__":
    chat.serve(chat_message)
