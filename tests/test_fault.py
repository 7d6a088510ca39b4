"""Faults as scopes: armed at the beginning, healed at the end, once, whatever happened in between."""

import asyncio
import math
import re
from typing import Any, Literal

import pytest

from harness.clients.author import Message
from harness.errors import HarnessError
from harness.fault import Acts, NotSeen, fault
from tests.systems import in_event_loop


class Thing:
    """Something with faults that notes what they do to it."""

    title = "the thing"

    def __init__(self, *, fails: tuple[str, ...] = ()) -> None:
        self.done: list[str] = []
        self._fails = fails

    def do(self, step: str) -> None:
        """Note a step; fail at it, where it is to fail."""
        self.done.append(step)
        if step in self._fails:
            raise OSError(f"{step} went wrong")

    @fault("store")
    async def hurt(self, how: str = "badly", *, times: int = 2, never: object = None) -> Acts:
        """Hurt it."""
        try:
            self.do("arm")
            message = yield None
            self.do(f"bite {message.id}")
            yield f"{message.id} was hurt {how} {times} times"
        finally:
            self.do("heal")

    @fault("link")
    async def miss(self) -> Acts:
        """Do nothing to it."""
        try:
            yield None
            raise NotSeen("it was not there")
        finally:
            self.do("heal")

    @fault("server")
    async def hang(self) -> Acts:
        """Never come to an end."""
        try:
            self.do("arm")
            yield None
            await asyncio.Event().wait()
            yield "never"
        finally:
            await asyncio.sleep(0)  # what heals takes its time
            self.do("heal")


MESSAGE = Message("m1", "text", "offset")


@in_event_loop
async def test_fault_is_armed_bites_and_heals() -> None:
    """Each of the three steps does its part, and the bite returns the evidence."""
    thing = Thing()
    hurt = thing.hurt()
    assert thing.done == []
    await hurt.begin()
    assert thing.done == ["arm"]
    assert await hurt.bite(MESSAGE) == "m1 was hurt badly 2 times"
    assert thing.done == ["arm", "bite m1"]
    await hurt.heal()
    assert thing.done == ["arm", "bite m1", "heal"]


@in_event_loop
async def test_fault_that_never_bit_heals() -> None:
    """A schedule that does not ask for the bite leaves nothing armed."""
    thing = Thing()
    hurt = thing.hurt()
    await hurt.begin()
    await hurt.heal()
    assert thing.done == ["arm", "heal"]


@in_event_loop
async def test_fault_that_never_began_has_nothing_to_heal() -> None:
    """Healing what was not armed does nothing."""
    thing = Thing()
    await thing.hurt().heal()
    assert thing.done == []


@in_event_loop
async def test_fault_that_fails_to_bite_is_healed_once() -> None:
    """A bite that was not seen is told as such, and healed once, however often the end of the scope comes."""
    thing = Thing()
    miss = thing.miss()
    await miss.begin()
    with pytest.raises(NotSeen, match="it was not there"):
        await miss.bite(MESSAGE)
    await miss.heal()
    await miss.heal()
    assert thing.done == ["heal"]


@in_event_loop
async def test_fault_that_breaks_while_it_bites_is_healed() -> None:
    """An error in the bite passes through, and what was armed is healed."""
    thing = Thing(fails=("bite m1",))
    hurt = thing.hurt()
    await hurt.begin()
    with pytest.raises(OSError, match="bite m1 went wrong"):
        await hurt.bite(MESSAGE)
    await hurt.heal()
    assert thing.done == ["arm", "bite m1", "heal"]


@in_event_loop
async def test_fault_that_cannot_be_armed_is_healed() -> None:
    """An error while it is armed passes through, and the half of it that is armed is healed."""
    thing = Thing(fails=("arm",))
    hurt = thing.hurt()
    with pytest.raises(OSError, match="arm went wrong"):
        await hurt.begin()
    await hurt.heal()
    assert thing.done == ["arm", "heal"]


@in_event_loop
async def test_fault_that_cannot_be_healed_says_so() -> None:
    """An error while it heals passes through: somebody has to know."""
    thing = Thing(fails=("heal",))
    hurt = thing.hurt()
    await hurt.begin()
    with pytest.raises(OSError, match="heal went wrong"):
        await hurt.heal()


@in_event_loop
async def test_fault_that_is_cancelled_while_it_bites_is_healed() -> None:
    """A schedule that is cancelled in the middle of a bite heals it on the way out."""
    thing = Thing()
    hang = thing.hang()
    await hang.begin()
    biting = asyncio.create_task(hang.bite(MESSAGE))
    await asyncio.sleep(0)
    biting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await biting
    assert thing.done == ["arm", "heal"]
    await hang.heal()
    assert thing.done == ["arm", "heal"]


def test_fault_carries_its_name_kind_and_place() -> None:
    """What stands in the history is the method's name, its plain arguments, its kind and what it is on."""
    thing = Thing()
    assert [(f.name, f.kind, f.on) for f in (thing.hurt(), thing.miss())] == [
        ("hurt", "store", "the thing"),
        ("miss", "link", "the thing"),
    ]
    assert thing.hurt("a bit", times=3).name == "hurt (a bit, 3)"
    assert thing.hurt("a bit", never=object()).name == "hurt (a bit)"
    assert Thing.hurt.__doc__ == "Hurt it."


@in_event_loop
async def test_arguments_reach_the_fault() -> None:
    """What a schedule asks for is what acts."""
    hurt = Thing().hurt("a bit", times=3)
    await hurt.begin()
    assert await hurt.bite(MESSAGE) == "m1 was hurt a bit 3 times"
    await hurt.heal()


@in_event_loop
async def test_two_faults_of_one_thing_do_not_meet() -> None:
    """Each call makes a fault of its own."""
    thing = Thing()
    first, second = thing.hurt(), thing.hurt("again")
    await first.begin()
    await second.begin()
    await first.heal()
    assert await second.bite(MESSAGE) == "m1 was hurt again 2 times"
    await second.heal()
    assert thing.done == ["arm", "arm", "heal", "bite m1", "heal"]


# -- what it is told ---------------------------------------------------------------------------------------------


class Told:
    """Something whose fault takes arguments of every kind."""

    title = "the thing"

    @fault("link")
    async def act(
        self,
        seconds: float = 1.0,
        times: int = 1,
        at: float = 0.5,
        way: Literal["in", "out"] = "in",
        slow_seconds: float = 0,
        thing: Thing | None = None,
    ) -> Acts:
        """Do it."""
        yield None
        yield "done"


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"seconds": -1}, "seconds has to be a number above 0, got -1"),
        ({"seconds": 0}, "seconds has to be a number above 0, got 0"),
        ({"seconds": math.nan}, "seconds has to be a number above 0, got nan"),
        ({"seconds": math.inf}, "seconds has to be a number above 0, got inf"),
        ({"seconds": "1"}, "seconds has to be a number, got '1'"),
        ({"seconds": True}, "seconds has to be a number, got True"),
        ({"times": 0}, "times has to be a number above 0, got 0"),
        ({"times": 1.5}, "times has to be a whole number, got 1.5"),
        ({"at": 1.1}, "at has to be from 0 to 1, got 1.1"),
        ({"at": -0.1}, "at has to be from 0 to 1, got -0.1"),
        ({"way": "sideways"}, "way has to be one of 'in', 'out', got 'sideways'"),
        ({"slow_seconds": -1}, "slow_seconds has to be a number above 0, got -1"),
    ],
)
def test_argument_that_makes_no_sense_is_refused_when_the_fault_is_made(given: dict[str, Any], problem: str) -> None:
    """The error names the fault, the argument and what was expected: nonsense must not come to act, and bite."""
    with pytest.raises(HarnessError, match=f"^{re.escape(f'fault act: {problem}')}$"):
        Told().act(**given)


def test_arguments_at_their_limits_are_taken() -> None:
    """The near misses: places at both ends, the smallest numbers, whole numbers of seconds, a default that is 0."""
    assert Told().act(0.001, 1, 0, "out", 0, None).name == "act (0.001, 1, 0, out, 0)"
    assert Told().act(seconds=2, at=1.0).name == "act (2, 1.0)"


@in_event_loop
async def test_fault_is_injected_once_and_bites_once() -> None:
    """A second scope or a second message for one fault is a mistake of the schedule, and says so."""
    hurt = Thing().hurt()
    await hurt.begin()
    await hurt.bite(MESSAGE)
    with pytest.raises(HarnessError, match="the fault hurt has been bitten already"):
        await hurt.bite(MESSAGE)
    with pytest.raises(HarnessError, match="the fault hurt is injected twice"):
        await hurt.begin()
    await hurt.heal()
