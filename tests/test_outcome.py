"""What came of the cases of a sweep: told from the history alone, neighbours folded."""

import pytest

from harness import history as h
from harness.checker import judge
from harness.outcome import Outcome, folded, joined, outcomes
from tests.histories import Script

CUT, WHOLE = "the connection was cut after 3 bytes", "nothing was cut: the exchange had less than 9 bytes"


class Sweep(Script):
    """A history of a sweep: each case is a fault on a message of its own."""

    def __init__(self, fault: str = "cut at") -> None:
        super().__init__(receivers="none")
        self.name = fault
        self.posted = [self.send()]
        self.cases = 0

    def case(
        self, case: str, *, again: bool = True, stored: int = 1, seen: bool = True, bites: bool = True, said: str = CUT
    ) -> None:
        """One case, whose message is sent again or not and stored so often."""
        self.cases += 1
        number = self.cases
        began = h.FaultBegan(
            time=0.0, number=number, fault=self.name, kind="link", on="alice", case=case, place="there"
        )
        self.events.append(began)
        message = self.post()
        self.attempt(message)
        if again:
            self.info(message)
        if bites:
            self.events.append(
                h.Bitten(time=0.0, number=number, fault=self.name, message=message.message, seen=seen, evidence=said)
            )
        self.healed(number)
        if again:
            self.attempt(message)
        self.acknowledge(message)
        self.posted += [message] * stored

    def outcomes(self) -> list[Outcome]:
        """What came of them."""
        self.posted.append(self.send())
        self.rows(*self.posted)
        history = self.finished()
        return outcomes(history, judge(history))


def test_history_without_cases_has_no_outcomes() -> None:
    """A scenario that is no sweep says nothing of cases."""
    script = Script()
    script.send()
    history = script.finished()
    assert outcomes(history, judge(history)) == []


def test_outcome_is_told_in_words_and_whether_it_is_good() -> None:
    """Sent again, acknowledged before the cut and not cut at all are good; a bite that is not seen is not."""
    sweep = Sweep()
    sweep.case("wire/up/0")
    sweep.case("wire/up/1", again=False)
    sweep.case("wire/up/2", again=False, said=WHOLE)
    sweep.case("wire/up/3", seen=False)
    sweep.case("wire/up/4", bites=False)
    assert [(it.case, it.kind, it.words, it.good) for it in sweep.outcomes()] == [
        ("wire/up/0", "resent", "cut, sent again, stored once", True),
        ("wire/up/1", "acknowledged", "acknowledged, then cut", True),
        ("wire/up/2", "untouched", "not cut, stored once", True),
        ("wire/up/3", "unproven", "not cut where it should be", False),
        ("wire/up/4", "unproven", "it did not come to its end", False),
    ]


@pytest.mark.parametrize(("stored", "anomaly"), [(0, "lost"), (2, "duplicate")])
def test_anomaly_outweighs_everything_else(stored: int, anomaly: str) -> None:
    """A case whose message breaks the claim has the anomaly's name, and those beside it are good."""
    sweep = Sweep()
    sweep.case("wire/down/0")
    sweep.case("wire/down/1", stored=stored)
    sweep.case("wire/down/2")
    assert [(it.kind, it.words) for it in sweep.outcomes()] == [
        ("resent", "cut, sent again, stored once"),
        ("broken", anomaly),
        ("resent", "cut, sent again, stored once"),
    ]


@pytest.mark.parametrize("within", [True, False])
def test_case_breaks_with_any_of_its_messages(within: bool) -> None:
    """Of a stream its fault bites one, and whatever becomes of the others is its, too; what came before is not."""
    sweep = Sweep()
    if not within:
        sweep.posted += [sweep.send()] * 2
    sweep.events.append(
        h.FaultBegan(time=0.0, number=1, fault="cut at", kind="link", on="alice", case="wire/up/0", place="there")
    )
    if within:
        sweep.posted += [sweep.send()] * 2
    bitten = sweep.send()
    sweep.posted.append(bitten)
    sweep.events.append(h.Bitten(time=0.0, number=1, fault="cut at", message=bitten.message, seen=True, evidence=CUT))
    sweep.healed(1)
    (outcome,) = sweep.outcomes()
    assert (outcome.kind, outcome.words) == (
        ("broken", "duplicate") if within else ("acknowledged", "acknowledged, then cut")
    )


def test_outcomes_are_in_the_order_of_their_positions() -> None:
    """Several links work at once, and 10 is behind 9."""
    sweep = Sweep()
    for position in (10, 2, 9):
        sweep.case(f"wire/up/{position}")
    assert [it.case for it in sweep.outcomes()] == ["wire/up/2", "wire/up/9", "wire/up/10"]


@pytest.mark.parametrize(
    ("fault", "resent", "acknowledged", "untouched"),
    [
        ("cut at (upstream)", "cut, sent again", "acknowledged, then cut", "not cut"),
        ("kill at call", "killed, sent again", "acknowledged, then killed", "not killed"),
        ("fail at call (EIO)", "failed, sent again", "failed, then acknowledged", "not failed"),
        ("lock and cut (before)", "locked, sent again", "locked, then acknowledged", "not locked"),
        ("hit no call", "hit, sent again", "acknowledged, then hit", "not hit"),
    ],
)
def test_words_say_what_was_done(fault: str, resent: str, acknowledged: str, untouched: str) -> None:
    """The first word of a fault's name decides; what stands at its place is what the fault began with."""
    sweep = Sweep(fault)
    sweep.case("syscall/kill/0")
    sweep.case("syscall/kill/1", again=False)
    sweep.case("syscall/kill/2", again=False, said="nothing was hit")
    found = sweep.outcomes()
    assert [it.words for it in found] == [f"{resent}, stored once", acknowledged, f"{untouched}, stored once"]
    assert {it.place for it in found} == {"there"}


def test_outcome_names_the_message_that_was_bitten() -> None:
    """So that it can be looked up in the history."""
    sweep = Sweep()
    sweep.case("wire/up/0")
    (found,) = sweep.outcomes()
    assert found.message == sweep.posted[1].message


def test_shares_are_joined_in_the_order_of_their_positions() -> None:
    """Those of pairs have every other pair each."""
    shares = [["9+4", "10+2"], ["+4", "9+30"]]
    found = joined([Outcome(f"pairs/up-kill/{at}", "", "resent", "", "") for at in share] for share in shares)
    assert [it.case.rpartition("/")[2] for it in found] == ["+4", "9+4", "9+30", "10+2"]


def test_neighbours_with_the_same_outcome_are_folded() -> None:
    """A gap in the positions, another outcome and another sweep each begin a new group."""
    found = [
        Outcome(case, "", "resent", words, "")
        for case, words in [
            *((f"wire/up/{position}", "again") for position in range(3)),
            ("wire/up/3", "otherwise"),
            ("wire/up/5", "otherwise"),
            ("wire/up/6", "otherwise"),
            ("wire/down/7", "otherwise"),
        ]
    ]
    assert [(cases, first.case) for cases, first in folded(found)] == [
        ("wire/up/0..2", "wire/up/0"),
        ("wire/up/3", "wire/up/3"),
        ("wire/up/5..6", "wire/up/5"),
        ("wire/down/7", "wire/down/7"),
    ]


def test_pairs_with_the_same_outcome_are_folded_with_their_number() -> None:
    """They have no neighbours; in their own order they come by both positions, one that is left out first."""
    sweep = Sweep("kill in recovery")
    for case in ("10+2", "9+30", "+4", "9+4"):
        sweep.case(f"pairs/kill-kill/{case}", again=case != "+4")
    found = sweep.outcomes()
    assert [it.case.rpartition("/")[2] for it in found] == ["+4", "9+4", "9+30", "10+2"]
    assert [cases for cases, _ in folded(found)] == ["pairs/kill-kill (1)", "pairs/kill-kill (3)"]
