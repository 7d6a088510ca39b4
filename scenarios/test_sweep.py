"""Every byte of a message's exchange is cut once: nothing between two bytes is left to luck.

`pytest scenarios/test_sweep.py --case wire/up/37` runs one case.
"""

from harness import sweep
from harness.link import Direction
from harness.scenario import scenario
from harness.system import System


@scenario(family="wire", controls=["once"], variants={"up": {}}, sweep=True)
async def test_message_that_is_cut_at_any_byte_on_its_way_is_stored_once(system: System) -> None:
    """A connection that ends after any number of a message's bytes: the message is sent again, and stored once."""
    await sweep.every_byte(system, "upstream")


@scenario(family="wire", controls=["new-offset"], variants={"down": {}}, sweep=True)
async def test_message_that_is_cut_at_any_byte_of_its_answer_is_stored_once(system: System) -> None:
    """A connection that ends after any number of bytes of the answer: the message is sent again, and stored once."""
    await sweep.every_byte(system, "downstream")


@scenario(
    family="wire-connect",
    controls=["once"],
    variants={"up": {"direction": "upstream"}, "down": {"direction": "downstream"}},
    transports=["websocket"],
    clients=["python"],  # no driver tells the bytes of a handshake
    sweep=True,
)
async def test_message_that_waits_for_a_handshake_which_is_cut_at_any_byte_is_stored_once(
    system: System, direction: Direction
) -> None:
    """A way back that ends after any number of bytes of its handshake: the next one carries the message."""
    await sweep.every_byte_of_a_handshake(system, direction)
