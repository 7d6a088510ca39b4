"""A lock before, during and after an insert, for any time, with and without a cut."""

import itertools
from collections.abc import Sequence
from typing import get_args

from harness.link import Cut, Phase
from harness.sweeps import TEXT, tried
from harness.system import System

# Around the busy timeout of the shipped servers (0.2 of their ack timeout) and the ack timeout.
_HELD_ACK_TIMEOUTS = (0, 0.1, 0.15, 0.2, 0.25, 0.5, 0.9, 1, 1.1, 1.5)


async def every_lock(system: System, cuts: Sequence[Cut]) -> None:
    """Lock the store before, during and after an insert, from none to beyond the ack timeout, with these cuts."""
    sender = await system.sender("alice")
    spaces = itertools.product(get_args(Phase), _HELD_ACK_TIMEOUTS, cuts)
    points = [(taken, system.seconds(ack_timeouts=held), cut) for taken, held, cut in spaces]
    await sender.send(TEXT)
    for case in system.cases(len(points)):
        taken, seconds, cut = points[case]
        fault = sender.link.lock_and_cut(taken, seconds, cut)
        await tried(system, sender, fault, case, _place(taken, seconds, cut))
    await sender.send(TEXT)


def _place(taken: Phase, seconds: float, cut: Cut) -> str:
    return f"{taken} the insert, for {seconds:g} s" + ("" if cut == "never" else f", cut {cut} the lock")
