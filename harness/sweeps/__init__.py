"""Fault spaces that are covered completely: each byte of an exchange is a case, each system call of the server is.

A case is named by what is swept, where and at which position: `wire/up/37` is a cut after 37 bytes upstream,
`syscall/kill/9` a kill at the tenth of the server's calls, `pairs/up-kill/12+9` one after the other.
"""

from harness.clients.author import Message
from harness.fault import Fault
from harness.system import AnySender, System

TEXT = "hello"
"""What every message of a sweep says: they all have the same length."""


async def tried(system: System, sender: AnySender, fault: Fault, case: int | str | None, place: str) -> Message:
    """Go through one case: the fault bites a message, and that is finished."""
    async with system.inject(fault, case=case, place=place) as injected:
        message = sender.post(TEXT)
        await injected.bitten(message)
    system.hurry()
    await sender.finished(message)
    return message
