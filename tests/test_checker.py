"""The judge: each anomaly and its near misses, what breaks which claim, the verdicts, damages to valid histories."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol, TypeVar, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import checker
from harness import history as h
from harness.checker import Anomaly, fold, judge
from harness.errors import HarnessError
from tests.histories import (
    RECEIVERS,
    RUN,
    Posted,
    Script,
    Sketch,
    content_of,
    events,
    finding,
    findings,
    identity,
    in_time,
    sketches,
    started,
)

ALICE_1, ALICE_2, ALICE_3 = (identity("alice", sequence) for sequence in (1, 2, 3))
Finding = tuple[str, str | None, str | None]
T = TypeVar("T")


# -- lost --------------------------------------------------------------------------------------------------------


def test_acknowledged_message_without_a_row_is_lost() -> None:
    """A message that was acknowledged and is not stored is lost."""
    script = Script()
    first, _, third = script.send(), script.send(), script.send()
    script.rows(first, third)
    assert findings(script.finished()) == [("lost", ALICE_2, None)]


def test_message_handed_over_without_a_row_is_lost() -> None:
    """A message of a sender without acknowledgements is lost when it was handed over and is not stored."""
    script = Script()
    posted = script.post(policy="once")
    script.settle(posted, "handed-over")
    script.attempt(posted)
    script.fail(posted)
    assert findings(script.finished()) == [("lost", ALICE_1, None)]


def test_message_is_lost_when_another_one_is_stored_under_its_offset() -> None:
    """A colliding offset does not hide a loss: the row belongs to the message whose content it holds."""
    script = Script()
    first, second = script.send(), script.send()
    script.row(first.content, f"{second.message}-o")
    assert findings(script.finished()) == [("lost", ALICE_2, None)]


def test_acknowledgement_alone_makes_a_message_lost() -> None:
    """A message that was acknowledged is lost without its row, also when the run ended before its sender was told."""
    script = Script()
    posted = script.post()
    script.attempt(posted)
    script.ok(posted)
    assert ("lost", ALICE_1, None) in findings(script.finished())


def test_message_whose_only_row_is_corrupted_is_not_lost() -> None:
    """A message that is stored with other content is corrupted, and not lost as well."""
    script = Script()
    posted = script.send()
    script.row(f"{posted.message} other {posted.message}")
    assert findings(script.finished()) == [("corrupted", ALICE_1, None)]


@pytest.mark.parametrize("stored", [True, False])
def test_message_with_unknown_outcome_may_be_stored_or_not(stored: bool) -> None:
    """A message without an answer is never lost, and when it is stored its sender's wrong belief is only reported."""
    script = Script()
    posted = script.give_up()
    if stored:
        script.rows(posted)
    assert findings(script.finished()) == ([("false_failure", ALICE_1, None)] if stored else [])


def test_late_acknowledgement_does_not_make_a_message_lost() -> None:
    """An acknowledgement after the end of its attempt changes nothing: the outcome stays unknown."""
    script = Script()
    posted = script.give_up()
    script.late_ok(posted)
    assert findings(script.finished()) == []
    assert fold(script.history()).messages[posted.message].outcome == "info"
    assert judge(script.history()).counts["acknowledged"] == 0


# -- silent_drop and stuck ---------------------------------------------------------------------------------------


def test_message_overtaken_by_a_settled_one_is_dropped_silently() -> None:
    """A message without an outcome is dropped when a later one of its sender was attempted and settled."""
    script = Script()
    dropped = script.post()
    script.attempt(dropped)
    script.info(dropped)
    script.rows(script.send())
    assert findings(script.finished()) == [("silent_drop", ALICE_1, None)]


def test_last_message_without_an_outcome_is_stuck() -> None:
    """A message that its sender was told nothing of is stuck when no later one settled."""
    script = Script()
    first = script.send()
    script.attempt(script.post())
    script.rows(first)
    assert findings(script.finished()) == [("stuck", ALICE_2, None)]


def test_message_that_was_never_attempted_is_stuck() -> None:
    """A message that waits in the outbox until the deadline is stuck, stored or not."""
    script = Script()
    script.rows(script.send())
    script.post()
    script.post()
    assert findings(script.finished()) == [("stuck", ALICE_2, None), ("stuck", ALICE_3, None)]


def test_settled_message_of_another_sender_drops_nothing() -> None:
    """Only a later message of the same sender makes an unsettled one dropped: otherwise it is stuck."""
    script = Script()
    script.attempt(script.post("alice"))
    script.rows(script.send("bob"), script.send("bob"))
    assert findings(script.finished()) == [("stuck", ALICE_1, None)]


def test_later_message_that_did_not_settle_drops_nothing() -> None:
    """A later message counts against an earlier one only when it settled: two without an outcome are both stuck."""
    script = Script()
    script.attempt(script.post())
    script.attempt(script.post())
    assert findings(script.finished()) == [("stuck", ALICE_1, None), ("stuck", ALICE_2, None)]


def test_later_message_that_was_not_attempted_drops_nothing() -> None:
    """A later message counts against an earlier one only when it was attempted."""
    script = Script()
    script.attempt(script.post())
    later = script.post()
    script.settle(later, "gave-up")
    assert findings(script.finished()) == [("stuck", ALICE_1, None)]


def test_message_given_up_aloud_is_neither_dropped_nor_stuck() -> None:
    """A message that its sender was told of as given up needs no row and is no anomaly."""
    script = Script()
    script.give_up()
    script.rows(script.send())
    assert findings(script.finished()) == []


# -- duplicate ---------------------------------------------------------------------------------------------------


def test_message_with_two_rows_is_a_duplicate() -> None:
    """A message that is stored twice is a duplicate."""
    script = Script()
    first, second = script.send(), script.send()
    script.rows(first, second, first)
    assert findings(script.finished()) == [("duplicate", ALICE_1, None)]


def test_message_with_unknown_outcome_and_two_rows_is_a_duplicate() -> None:
    """A message without an answer may be stored, and never twice."""
    script = Script()
    posted = script.give_up()
    script.rows(posted, posted)
    assert ("duplicate", ALICE_1, None) in findings(script.finished())


def test_same_body_in_two_messages_is_no_duplicate() -> None:
    """Two messages that say the same are two messages."""
    script = Script()
    script.rows(script.send(body="yes"), script.send(body="yes"))
    assert findings(script.finished()) == []


def test_retry_that_is_stored_once_is_no_duplicate() -> None:
    """Two attempts, the second acknowledged, and one row are what is promised."""
    script = Script()
    posted = script.post()
    script.attempt(posted)
    script.info(posted)
    script.attempt(posted)
    script.acknowledge(posted)
    script.late_ok(posted, attempt=1)
    script.rows(posted)
    assert findings(script.finished()) == []


# -- corrupted ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda content: content[: len(ALICE_1)], id="only the leading identity survives"),
        pytest.param(lambda content: content[-len(ALICE_1) :], id="only the trailing identity survives"),
        pytest.param(lambda content: content[:-1], id="the last character is cut off"),
        pytest.param(lambda content: content.replace("hello", "Hello"), id="a letter differs"),
        pytest.param(lambda content: content + " ", id="a blank is added"),
        pytest.param(lambda _: "", id="empty, its identity only in the offset"),
        pytest.param(lambda _: None, id="NULL, its identity only in the offset"),
    ],
)
def test_other_content_is_corrupted(damage: Callable[[str], str | None]) -> None:
    """A row of a message with any other content is corrupted, whatever still tells whose it is."""
    script = Script()
    posted = script.send()
    script.row(damage(posted.content), f"{posted.message}-o")
    assert findings(script.finished()) == [("corrupted", ALICE_1, None)]


def test_only_the_damaged_of_two_rows_is_corrupted() -> None:
    """Each row is compared for itself: a good one does not excuse a bad one."""
    script = Script()
    posted = script.send()
    script.rows(posted)
    script.row(posted.message)
    assert findings(script.finished()) == [("corrupted", ALICE_1, None), ("duplicate", ALICE_1, None)]


@pytest.mark.parametrize("offset", [None, "", "x", f"{identity('alice', 2)}-o"])
def test_same_content_under_any_offset_is_not_corrupted(offset: str | None) -> None:
    """What a server does with the offset is its own affair, as long as the content is whole."""
    script = Script()
    posted = script.send()
    script.row(posted.content, offset)
    assert findings(script.finished()) == []


def test_content_with_two_identities_belongs_to_the_first() -> None:
    """A message that quotes another one is itself, and the quoted one is not stored by it."""
    script = Script()
    quoted = script.send("bob")
    quoting = script.send("alice", body=quoted.content)
    script.rows(quoted, quoting)
    assert findings(script.finished()) == []


# -- unexpected and foreign rows ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(identity("alice", 2), id="a sequence that was not reached"),
        pytest.param(identity("zed", 1), id="a sender that there is not"),
        pytest.param(f"{ALICE_1}0", id="a longer number that begins like a posted one"),
    ],
)
def test_identity_that_was_never_posted_is_unexpected(message: str) -> None:
    """A row with an identity of this run that nobody posted is unexpected, under its own identity."""
    script = Script()
    script.rows(script.send())
    script.row(content_of(message))
    assert findings(script.finished()) == [("unexpected", message, None)]


def test_number_with_five_digits_is_told_from_its_first_four() -> None:
    """Message 00010 is not message 0001, and both can be stored."""
    script = Script()
    first = script.send(sequence=1000)
    tenfold = script.send(sequence=10000)
    assert tenfold.message.startswith(first.message)
    script.rows(first, tenfold)
    assert findings(script.finished()) == []


@pytest.mark.parametrize(
    "content",
    [
        None,
        "",
        "hello",
        "other1-alice-0001 hello",
        f"{RUN}-alice-001",
        f"{RUN}-alice-",
        f"{RUN}-0001",
        f"{RUN}-alice-\u0660\u0660\u0660\u0661",
    ],
)
def test_row_without_an_identity_of_this_run_is_foreign(content: str | None) -> None:
    """A row that holds no identity of this run is counted as foreign, and no anomaly."""
    script = Script()
    script.rows(script.send())
    script.row(content, "somebody's")
    judgement = judge(script.finished())
    assert (judgement.anomalies, judgement.counts["foreign"], judgement.verdict) == ([], 1, "kept")


# -- aborted_read ------------------------------------------------------------------------------------------------


def test_stored_although_every_attempt_failed_is_an_aborted_read() -> None:
    """A message that was definitely never sent and has a row is an aborted read."""
    script = Script()
    posted = script.post()
    for _ in range(2):
        script.attempt(posted)
        script.fail(posted)
    script.settle(posted, "gave-up")
    script.rows(posted)
    assert findings(script.finished()) == [("aborted_read", ALICE_1, None), ("false_failure", ALICE_1, None)]


@pytest.mark.parametrize("last", ["ok", "info"])
def test_one_attempt_that_may_have_arrived_excuses_a_row(last: str) -> None:
    """An attempt without an answer, or an acknowledged one, outweighs those that failed."""
    script = Script()
    posted = script.post()
    for ending in (script.fail, script.info, script.ok if last == "ok" else script.fail):
        script.attempt(posted)
        ending(posted)
    script.settle(posted)
    script.rows(posted)
    assert findings(script.finished()) == []
    assert fold(script.history()).messages[ALICE_1].outcome == last


def test_failed_message_without_a_row_is_no_aborted_read() -> None:
    """A message that was never sent and is not stored is what its sender was told."""
    script = Script()
    posted = script.post()
    script.attempt(posted)
    script.fail(posted)
    script.settle(posted, "gave-up")
    assert findings(script.finished()) == []


# -- crashed -----------------------------------------------------------------------------------------------------


def test_server_that_ends_by_itself_has_crashed() -> None:
    """An exit that nobody asked for is a crash, of no single message."""
    script = Script()
    script.rows(script.send())
    script.exited(expected=False)
    assert findings(script.finished()) == [("crashed", None, None)]


def test_server_that_was_killed_has_not_crashed() -> None:
    """An exit that the harness brought about is none."""
    script = Script()
    script.rows(script.send())
    script.exited(expected=True)
    assert findings(script.finished()) == []


# -- reordered ---------------------------------------------------------------------------------------------------


def test_row_behind_a_later_message_of_its_sender_is_reordered() -> None:
    """The message that was overtaken is the one that is reordered."""
    script = Script()
    first, second, third = script.send(), script.send(), script.send()
    script.rows(second, first, third)
    assert findings(script.finished()) == [("reordered", ALICE_1, None)]


def test_every_message_behind_a_later_one_is_reordered() -> None:
    """One message that comes far too early leaves all that it overtook out of order."""
    script = Script()
    first, second, third = script.send(), script.send(), script.send()
    script.rows(third, first, second)
    assert findings(script.finished()) == [("reordered", ALICE_1, None), ("reordered", ALICE_2, None)]


def test_later_duplicate_out_of_order_is_not_reordered() -> None:
    """Only first rows have an order: a duplicate is a duplicate."""
    script = Script()
    first, second = script.send(), script.send()
    script.rows(first, second, first)
    assert findings(script.finished()) == [("duplicate", ALICE_1, None)]


def test_duplicate_before_its_time_is_reordered_too() -> None:
    """The first row counts, also where a second one stands in the right place."""
    script = Script()
    first, second = script.send(), script.send()
    script.rows(second, first, second)
    assert findings(script.finished()) == [("duplicate", ALICE_2, None), ("reordered", ALICE_1, None)]


def test_senders_have_no_order_among_each_other() -> None:
    """Messages of different senders can be stored in any order, and gaps are none."""
    script = Script()
    alice_1, bob_1, _, alice_3 = script.send(), script.send("bob"), script.give_up(), script.send()
    script.rows(alice_1, alice_3, bob_1)
    assert findings(script.finished()) == []


# -- receivers ---------------------------------------------------------------------------------------------------


def test_stored_message_that_a_receiver_did_not_get_is_missed() -> None:
    """A receiver misses what is stored and did not reach it, whatever the others got."""
    script = Script()
    script.receiving("rita", "rob")
    first, second = script.send(), script.send()
    script.rows(first, second)
    script.receives("rita", first, second)
    script.receives("rob", first)
    assert findings(script.finished()) == [("missed", ALICE_2, "rob")]


def test_receiver_that_got_nothing_at_all_missed_everything() -> None:
    """A receiver without a single broadcast is judged like any other."""
    script = Script()
    script.receiving("rita")
    script.rows(script.send(), script.send())
    assert findings(script.finished()) == [("missed", ALICE_1, "rita"), ("missed", ALICE_2, "rita")]


def test_message_that_is_not_stored_is_not_missed() -> None:
    """A message that was given up and has no row is owed to nobody."""
    script = Script()
    script.receiving("rita")
    script.give_up()
    assert findings(script.finished()) == []


def test_run_without_receivers_misses_nothing() -> None:
    """Where nobody listens nothing is missed."""
    script = Script()
    script.rows(script.send())
    assert findings(script.finished()) == []


def test_message_received_twice_and_stored_once_is_repeated() -> None:
    """A receiver that got a message twice was promised it once."""
    script = Script()
    script.receiving("rita", "rob")
    posted = script.send()
    script.rows(posted)
    script.receives("rita", posted)
    script.receives("rob", posted, posted)
    assert findings(script.finished()) == [("repeated", ALICE_1, "rob")]


def test_two_rows_received_twice_are_a_duplicate_and_not_repeated() -> None:
    """Who stores a message twice and broadcasts each row once has stored a duplicate, and repeated nothing."""
    script = Script()
    script.receiving("rita")
    posted = script.send()
    script.rows(posted, posted)
    script.receives("rita", posted, posted)
    assert findings(script.finished()) == [("duplicate", ALICE_1, None)]


def test_two_rows_received_three_times_are_repeated_too() -> None:
    """More receptions than rows are repeated, beside the duplicate."""
    script = Script()
    script.receiving("rita")
    posted = script.send()
    script.rows(posted, posted)
    script.receives("rita", posted, posted, posted)
    assert findings(script.finished()) == [("duplicate", ALICE_1, None), ("repeated", ALICE_1, "rita")]


@pytest.mark.parametrize("order", ["total", "sender"])
def test_own_messages_out_of_order_are_misordered(order: h.Order) -> None:
    """A receiver that got a sender's later message first got the earlier one misordered, once."""
    script = Script(order=order)
    script.receiving("rita")
    first, second = script.send(), script.send()
    script.rows(first, second)
    script.receives("rita", second, first)
    assert findings(script.finished()) == [("misordered", ALICE_1, "rita")]


def test_total_order_is_that_of_the_rows() -> None:
    """Under `total` a receiver that got two senders' messages against the order of their rows got one misordered."""
    script = Script(order="total")
    script.receiving("rita")
    alice, bob = script.send("alice"), script.send("bob")
    script.rows(alice, bob)
    script.receives("rita", bob, alice)
    assert findings(script.finished()) == [("misordered", ALICE_1, "rita")]


def test_every_message_behind_one_that_came_too_early_is_misordered() -> None:
    """Under `total` each message that follows one with a later row is misordered, and not only the first."""
    script = Script(order="total")
    script.receiving("rita")
    alice, bob, carol = script.send("alice"), script.send("bob"), script.send("carol")
    script.rows(alice, bob, carol)
    script.receives("rita", carol, alice, bob)
    expected = [("misordered", message, "rita") for message in (ALICE_1, identity("bob", 1))]
    assert findings(script.finished()) == expected


def test_message_behind_its_own_sender_does_not_excuse_others() -> None:
    """Under `total` a message that is out of its sender's order hides no other that the same one overtook."""
    script = Script(order="total")
    script.receiving("rita")
    alice_1, bob, alice_2 = script.send("alice"), script.send("bob"), script.send("alice")
    script.rows(alice_1, bob, alice_2)
    script.receives("rita", alice_2, alice_1, bob)
    expected = [("misordered", message, "rita") for message in (ALICE_1, identity("bob", 1))]
    assert findings(script.finished()) == expected


@pytest.mark.parametrize("order", ["sender", "sequential", "none"])
def test_other_orders_say_nothing_across_senders(order: h.Order) -> None:
    """Without `total` a receiver can get the senders' messages in any order."""
    script = Script(order=order)
    script.receiving("rita")
    alice, bob = script.send("alice"), script.send("bob")
    script.rows(alice, bob)
    script.receives("rita", bob, alice)
    assert findings(script.finished()) == []


def test_receiver_in_the_order_of_reordered_rows_follows_the_rows() -> None:
    """Under `total` a message is misordered by its sender's order or by that of the rows, and named once for both."""
    script = Script(order="total")
    script.receiving("rita", "rob")
    first, second = script.send(), script.send()
    script.rows(second, first)
    script.receives("rita", second, first)
    script.receives("rob", first, second)
    assert findings(script.finished()) == [
        ("misordered", ALICE_1, "rita"),
        ("misordered", ALICE_2, "rob"),
        ("reordered", ALICE_1, None),
    ]


def test_later_repetition_out_of_order_is_not_misordered() -> None:
    """Only first receptions have an order: a repetition is repeated."""
    script = Script()
    script.receiving("rita")
    first, second = script.send(), script.send()
    script.rows(first, second)
    script.receives("rita", first, second, first)
    assert findings(script.finished()) == [("repeated", ALICE_1, "rita")]


def test_message_nobody_posted_does_not_disturb_the_order_of_the_others() -> None:
    """A row that nobody posted, received out of order, is unexpected, and what stands around it is in order."""
    script = Script(order="total")
    script.receiving("rita")
    first, second = script.send(), script.send()
    script.rows(first)
    script.row(content_of(identity("zed", 1)))
    script.rows(second)
    script.receives("rita", first, second)
    script.broadcast("rita", content_of(identity("zed", 1)))
    assert findings(script.finished()) == [
        ("phantom", identity("zed", 1), "rita"),
        ("unexpected", identity("zed", 1), None),
    ]


@pytest.mark.parametrize("posted", [True, False])
def test_broadcast_without_a_row_is_a_phantom(posted: bool) -> None:
    """What a receiver got and is not stored is a phantom, posted or not."""
    script = Script()
    script.receiving("rita", "rob")
    message = script.give_up().message if posted else ALICE_1
    script.broadcast("rob", content_of(message))
    assert findings(script.finished()) == [("phantom", ALICE_1, "rob")]


def test_phantom_is_named_once_for_each_receiver() -> None:
    """A phantom that a receiver got twice is one phantom there, which is also repeated."""
    script = Script()
    script.receiving("rita", "rob")
    posted = script.give_up()
    script.receives("rita", posted, posted)
    script.receives("rob", posted)
    assert findings(script.finished()) == [
        ("phantom", ALICE_1, "rita"),
        ("phantom", ALICE_1, "rob"),
        ("repeated", ALICE_1, "rita"),
    ]


@pytest.mark.parametrize("content", [None, "", "somebody else's", "other1-alice-0001"])
def test_broadcast_without_an_identity_of_this_run_is_no_phantom(content: str | None) -> None:
    """What others say on the same server is not judged."""
    script = Script()
    script.receiving("rita")
    script.broadcast("rita", content)
    assert findings(script.finished()) == []


def test_receiver_that_is_announced_again_keeps_what_it_got() -> None:
    """A receiver that comes back starts no new sequence: what came twice is repeated."""
    script = Script()
    script.receiving("rita")
    first, second = script.send(), script.send()
    script.rows(first, second)
    script.receives("rita", second)
    script.receiving("rita")
    script.receives("rita", first)
    assert findings(script.finished()) == [("misordered", ALICE_1, "rita")]


# -- false_failure -----------------------------------------------------------------------------------------------


def test_message_given_up_and_stored_is_a_false_failure() -> None:
    """A sender that was told of a failure although the row is there was told wrong."""
    script = Script()
    script.rows(script.give_up())
    assert findings(script.finished()) == [("false_failure", ALICE_1, None)]


@pytest.mark.parametrize("outcome", ["acknowledged", "handed-over"])
def test_stored_message_that_was_not_given_up_is_no_false_failure(outcome: str) -> None:
    """Only the sender's being told of a failure makes one."""
    script = Script()
    posted = script.post()
    script.attempt(posted)
    script.info(posted)
    script.settle(posted, "acknowledged" if outcome == "acknowledged" else "handed-over")
    script.rows(posted)
    assert findings(script.finished()) == []


# -- not_durable -------------------------------------------------------------------------------------------------

SYNCED = ("pwrite64 store-wal 4096", "fdatasync store-wal", "sendto socket")
UNSYNCED = ("pwrite64 store-wal 4096", "sendto socket")


@pytest.mark.parametrize(
    ("calls", "acknowledged", "found"),
    [(SYNCED, True, False), (UNSYNCED, True, True), (UNSYNCED, False, False), ((), True, True), ((), False, False)],
)
def test_acknowledgement_before_the_sync_is_not_durable(
    calls: tuple[str, ...], acknowledged: bool, found: bool
) -> None:
    """A row that is not synced harms nobody while its sender was told nothing."""
    script = Script()
    posted = script.send()
    script.events.append(h.Traced(time=0.0, message=posted.message, calls=calls, acknowledged=acknowledged))
    script.rows(posted)
    assert (("not_durable", posted.message, None) in findings(script.finished())) is found


# -- slow_recovery -----------------------------------------------------------------------------------------------


def recovering(*, limit: float | None, lead: int = 0, heal: bool = True) -> tuple[Script, Posted]:
    """A run whose bitten message is acknowledged 3 ms after the heal, and that message; a later one comes after it.

    `lead` are the milliseconds by which everything happens later.
    """
    script = Script(recovery_seconds=limit)
    for _ in range(lead):
        script.row("somebody else's")
    stored = [script.send()]
    script.fault()
    during = script.post()
    script.attempt(during)
    script.bitten(during)
    script.info(during)
    if heal:
        script.healed()
    script.attempt(during)
    script.post("bob")
    script.acknowledge(during)
    stored += [during, script.send()]
    script.rows(*stored)
    return script, during


@pytest.mark.parametrize("limit", [0.001, 0.002, 0.0029])
def test_acknowledgement_later_than_claimed_is_a_slow_recovery(limit: float) -> None:
    """Where the first acknowledgement after the heal comes later than the target claims, its message says so."""
    script, during = recovering(limit=limit)
    slow = [anomaly for anomaly in judge(script.finished()).anomalies if anomaly.kind == "slow_recovery"]
    assert [(anomaly.message, anomaly.receiver) for anomaly in slow] == [(during.message, None)]
    assert slow[0].detail == f"first acknowledgement 0.003 s after the heal, claimed are {limit:g} s"


def test_recovery_exactly_at_the_limit_is_not_slow() -> None:
    """What takes as long as claimed is in time, whenever it happens."""
    for lead in range(300):
        script, _ = recovering(limit=0.003, lead=lead)
        history = script.finished()
        assert judge(history).recovery_seconds == 0.003
        assert "slow_recovery" not in [kind for kind, _, _ in findings(history)], lead


@pytest.mark.parametrize(("limit", "heal"), [(0.0031, True), (60.0, True), (None, True), (0.001, False)])
def test_recovery_in_time_or_without_a_limit_or_a_heal_is_not_slow(limit: float | None, heal: bool) -> None:
    """Nothing is slow within the limit, nor without one, nor before every fault has healed."""
    script, _ = recovering(limit=limit, heal=heal)
    assert "slow_recovery" not in [kind for kind, _, _ in findings(script.finished())]


def test_recovery_begins_with_the_last_of_several_heals() -> None:
    """A message that is acknowledged between two faults shows no recovery: the time starts when all have healed."""
    script = Script(recovery_seconds=0.002)
    stored = [script.send()]
    script.fault(1)
    script.fault(2)
    script.healed(1)
    stored += [script.send(), script.send(), script.post()]
    script.healed(2)
    script.attempt(stored[-1])
    script.post("bob")
    script.acknowledge(stored[-1])
    script.rows(*stored)
    assert ("slow_recovery", stored[-1].message, None) in findings(script.finished())


def test_recovery_runs_from_when_there_was_something_to_acknowledge() -> None:
    """A schedule that has nothing to say for a while after the heal is not the target's slowness."""
    script = Script(recovery_seconds=0.002)
    stored = [script.send()]
    script.fault()
    script.healed()
    for _ in range(20):
        script.row("somebody else's")
    stored.append(script.send())
    judgement = judge(script.finished())
    assert judgement.recovery_seconds is not None
    assert judgement.recovery_seconds <= 0.002
    assert "slow_recovery" not in [anomaly.kind for anomaly in judgement.anomalies]


def test_recovery_counts_what_is_acknowledged_while_the_fault_still_heals() -> None:
    """The time runs from the beginning of the heal: the first answer may come before its end is recorded."""
    script = Script()
    stored = [script.send()]
    script.fault()
    stored.append(script.post())
    script.attempt(stored[-1])
    script.events.append(h.Healing(time=0.0, number=1))
    script.acknowledge(stored[-1])
    script.healed()
    script.rows(*stored)
    judgement = judge(script.finished())
    assert judgement.recovery_seconds is not None
    assert judgement.recovery_seconds > 0


def test_target_that_never_recovers_is_stuck_and_not_slow() -> None:
    """Without any acknowledgement after the heal there is no time to compare; the message is stuck, and says so."""
    script = Script(recovery_seconds=0.001)
    before = script.send()
    script.fault()
    script.healed()
    script.attempt(script.post())
    script.rows(before)
    assert findings(script.finished()) == [("stuck", ALICE_2, None)]


def test_late_acknowledgement_is_no_recovery() -> None:
    """An answer that nobody waited for any more does not end the recovery time."""
    script = Script(recovery_seconds=0.003)
    before, during = script.send(), script.post()
    script.attempt(during)
    script.fault()
    script.info(during, timed_out=True)
    script.healed()
    script.late_ok(during)
    script.attempt(during)
    script.post("bob")
    script.acknowledge(during)
    script.rows(before, during)
    assert ("slow_recovery", during.message, None) in findings(script.finished())


@pytest.mark.parametrize("guarantee", get_args(h.Guarantee))
def test_slow_recovery_breaks_the_claim_and_nothing_else(guarantee: h.Guarantee) -> None:
    """Under every guarantee a run that only recovers too slowly is broken by that alone, and kept without the limit."""
    script = bitten_run()
    history = script.finished()
    for limit, verdict, broken_by in ((0.001, "broken", ["slow_recovery"]), (0.002, "kept", []), (None, "kept", [])):
        claimed = msgspec.structs.replace(history.started, guarantee=guarantee, recovery_seconds=limit)
        judgement = judge(h.History([claimed, *history.events[1:]]))
        assert judgement.verdict == verdict
        assert [anomaly.kind for anomaly in judgement.anomalies] == broken_by
        assert [anomaly.kind for anomaly in judgement.broken_by] == broken_by
        assert ("does not hold: slow_recovery" in judgement.why) is (verdict == "broken")


# -- what breaks which claim -------------------------------------------------------------------------------------

# The table of design.md: the guarantees of the store that each kind breaks. Orders and receivers are below.
ALL = ("at-most-once", "at-least-once", "exactly-once")
BROKEN_GUARANTEES: dict[str, tuple[str, ...]] = {
    "lost": ("at-least-once", "exactly-once"),
    "silent_drop": ("at-least-once", "exactly-once"),
    "stuck": ("at-least-once", "exactly-once"),
    "duplicate": ("at-most-once", "exactly-once"),
    "corrupted": ALL,
    "unexpected": ALL,
    "aborted_read": ALL,
    "crashed": ALL,
    "reordered": (),
    "missed": (),
    "repeated": (),
    "misordered": (),
    "phantom": (),
    "false_failure": (),
    "not_durable": ("at-least-once", "exactly-once"),
    "slow_recovery": ALL,
}
BROKEN_PROMISES: dict[str, tuple[str, ...]] = {
    "missed": ("at-least-once", "exactly-once"),
    "repeated": ("exactly-once",),
    "misordered": ("at-least-once", "exactly-once"),
    "phantom": ("at-least-once", "exactly-once"),
}


# Policies whose messages are not sent again behind later ones, and those of them that have one in flight at a time.
ONE_IN_FLIGHT = ("persistent", "retries=3", "new-offset", "tutorial", "tutorial-untimed")
IN_ORDER = (*ONE_IN_FLIGHT, "pipelined", "once", "fire-and-forget")


def breaks_by_design(kind: str, guarantee: str, order: str, receivers: str, policy: str) -> bool:
    """What design.md says."""
    in_order = {"total": IN_ORDER, "sender": IN_ORDER, "sequential": ONE_IN_FLIGHT, "none": ()}
    ordered = policy in in_order[order]
    if kind == "reordered":
        return ordered
    if kind == "misordered" and not ordered:
        return False
    return guarantee in BROKEN_GUARANTEES[kind] or receivers in BROKEN_PROMISES.get(kind, ())


def test_table_of_claims_knows_every_anomaly() -> None:
    """Every kind that there is stands in the table, and has the function that finds it."""
    kinds = set(get_args(checker.Kind))
    assert kinds == set(BROKEN_GUARANTEES) == {find.__name__ for find in checker.ANOMALIES}


@pytest.mark.parametrize("kind", get_args(checker.Kind))
@pytest.mark.parametrize("guarantee", get_args(h.Guarantee))
@pytest.mark.parametrize("order", get_args(h.Order))
def test_claim_decides_what_breaks(kind: checker.Kind, guarantee: h.Guarantee, order: h.Order) -> None:
    """An anomaly breaks what the target claims, by the table of the design, and is reported otherwise."""
    policies: tuple[h.Policy, ...] = get_args(h.Policy)
    promises: tuple[h.Receivers, ...] = get_args(h.Receivers)
    for policy in policies:
        for receivers in promises:
            script = Script(guarantee=guarantee, order=order, receivers=receivers)
            posted = script.send(policy=policy)
            anomaly = Anomaly(kind, None if kind == "crashed" else posted.message, "")
            expected = breaks_by_design(kind, guarantee, order, receivers, policy)
            assert checker.breaks(anomaly, fold(script.history())) is expected, (policy, receivers)


@pytest.mark.parametrize("guarantee", get_args(h.Guarantee))
@pytest.mark.parametrize("order", get_args(h.Order))
def test_control_has_to_show_what_threatens_the_claim(guarantee: h.Guarantee, order: h.Order) -> None:
    """What breaks the guarantee threatens it, a wrong order wherever one is claimed, and a false failure everybody."""
    threats = {kind for kind in get_args(checker.Kind) if checker.threatens(kind, guarantee, order)}
    expected = {kind for kind, guarantees in BROKEN_GUARANTEES.items() if guarantee in guarantees}
    assert threats == expected | {"false_failure"} | ({"reordered"} if order != "none" else set())


@pytest.mark.parametrize(
    ("order", "policy", "verdict"),
    [
        ("sequential", "persistent", "broken"),
        ("sequential", "retries=3", "broken"),
        ("sequential", "pipelined", "kept"),
        ("sequential", "fire-and-forget", "kept"),
        ("sequential", "resend", "kept"),
        ("sender", "pipelined", "broken"),
        ("sender", "fire-and-forget", "broken"),
        ("sender", "resend", "kept"),
        ("total", "retries=3", "broken"),
        ("total", "fire-and-forget", "broken"),
        ("total", "resend", "kept"),
        ("none", "persistent", "kept"),
    ],
)
def test_order_is_asked_only_of_policies_that_can_keep_it(order: h.Order, policy: h.Policy, verdict: str) -> None:
    """Reordering breaks `sequential` only of one in flight, and none of what is resent; it is reported either way."""
    script = Script(order=order)
    first, second = script.send(policy=policy), script.send(policy=policy)
    script.rows(second, first)
    judgement = judge(script.finished())
    assert judgement.verdict == verdict
    assert [anomaly.kind for anomaly in judgement.anomalies] == ["reordered"]
    assert len(judgement.broken_by if verdict == "broken" else judgement.reported) == 1


def test_broken_by_and_reported_share_the_anomalies_between_them() -> None:
    """Each anomaly is either one that breaks or one that is reported, the breaking ones first."""
    script = Script(guarantee="at-least-once")
    first, second = script.send(), script.send()
    script.rows(second, second)
    judgement = judge(script.finished())
    assert list(map(finding, judgement.broken_by)) == [("lost", first.message, None)]
    assert list(map(finding, judgement.reported)) == [("duplicate", second.message, None)]
    assert judgement.anomalies == judgement.broken_by + judgement.reported
    assert "lost" in judgement.why
    assert "duplicate" not in judgement.why


# -- verdicts ----------------------------------------------------------------------------------------------------


def bitten_run(
    *, before: bool = True, after: bool = True, bite: bool | None = True, heal: bool = True, row: bool = True
) -> Script:
    """A run with a fault, all but its last event, and without what the arguments say."""
    script = Script()
    stored = [script.send()] if before else []
    script.fault()
    during = script.post()
    script.attempt(during)
    script.info(during)
    if bite is not None:
        script.bitten(during, seen=bite)
    if heal:
        script.healed()
    script.attempt(during)
    script.acknowledge(during)
    stored += [during] if row else []
    stored += [script.send()] if after else []
    script.rows(*stored)
    return script


def test_fault_that_bit_and_harmed_nothing_is_kept() -> None:
    """A run with a bite, and messages acknowledged before and after it, and no anomaly, keeps its claim."""
    judgement = judge(bitten_run().finished())
    assert (judgement.verdict, judgement.why) == ("kept", "exactly-once in total order held")
    assert [bite.seen for bite in judgement.bites] == [True]


def test_run_without_a_fault_is_kept() -> None:
    """A baseline needs no bite, only messages that were acknowledged and stored."""
    script = Script()
    script.rows(script.send())
    assert judge(script.finished()).verdict == "kept"


@pytest.mark.parametrize(
    ("lacking", "why"),
    [
        ({"before": False}, "acknowledged before the fault"),
        ({"after": False}, "posted after the fault"),
        ({"heal": False}, "posted after the fault"),
        ({"bite": False}, "not seen to bite"),
        ({"bite": None}, "nothing shows that it bit"),
    ],
    ids=str,
)
def test_run_that_exercised_nothing_is_unproven(lacking: dict[str, bool], why: str) -> None:
    """Without an anomaly and without the evidence that the claim was exercised, a run says nothing."""
    judgement = judge(bitten_run(**lacking).finished())
    assert judgement.verdict == "unproven"
    assert why in judgement.why
    assert judgement.anomalies == []


def test_server_that_does_nothing_is_unproven() -> None:
    """A server that neither answers nor stores cannot pass, though nothing that was promised is broken."""
    script = Script()
    script.give_up()
    judgement = judge(script.finished())
    assert (judgement.verdict, judgement.why) == ("unproven", "no message was acknowledged")


def test_message_posted_during_the_fault_is_none_after_it() -> None:
    """Recovery is shown by a message that was posted after the fault, and the first of two heals is not its end."""
    script = Script()
    stored = [script.send()]
    script.fault(1)
    script.healed(1)
    script.fault(2)
    stored.append(script.send())
    script.bitten(stored[-1], number=2)
    script.healed(2)
    script.rows(*stored)
    assert judge(script.finished()).verdict == "unproven"


def test_message_acknowledged_between_two_faults_is_none_before_them() -> None:
    """Before the fault is before the first of them."""
    script = Script()
    script.fault(1)
    script.healed(1)
    stored = [script.send()]
    script.fault(2)
    script.bitten(stored[0], number=2)
    script.healed(2)
    script.rows(*stored, script.send())
    judgement = judge(script.finished())
    assert (judgement.verdict, judgement.why) == ("unproven", "no message was acknowledged before the fault")


def test_fault_that_never_healed_is_never_over() -> None:
    """A message that is acknowledged after one fault, while another one still acts, shows no recovery."""
    script = Script()
    stored = [script.send()]
    script.fault(1)
    script.bitten(stored[0])
    script.healed(1)
    script.fault(2)
    script.rows(*stored, script.send())
    judgement = judge(script.finished())
    assert judgement.verdict == "unproven"
    assert "posted after the fault" in judgement.why
    assert judgement.recovery_seconds is None


def test_fault_inside_another_is_over_when_both_are() -> None:
    """Two faults at a time have healed when the last of them has."""
    script = Script()
    stored = [script.send()]
    script.fault(1)
    script.fault(2)
    script.bitten(stored[0], number=1)
    script.healed(1)
    stored.append(script.send())
    script.bitten(stored[-1], number=2)
    assert fold(script.history()).last_heal is None
    script.healed(2)
    stored.append(script.send())
    script.rows(*stored)
    assert judge(script.finished()).verdict == "kept"


def test_each_fault_has_to_be_seen_to_bite() -> None:
    """Of two faults the one that bit does not prove the other."""
    script = Script()
    stored = [script.send()]
    script.fault(1)
    script.fault(2)
    script.bitten(stored[0], number=1)
    script.healed(2)
    script.healed(1)
    stored.append(script.send())
    script.rows(*stored)
    judgement = judge(script.finished())
    assert judgement.verdict == "unproven"
    assert "nothing shows that it bit" in judgement.why


def test_marker_is_no_part_of_the_schedule() -> None:
    """A schedule that sends nothing proves nothing, though the harness's own marker is stored and acknowledged."""
    script = Script()
    script.rows(script.send(sender=h.MARKER))
    judgement = judge(script.finished())
    assert judgement.verdict == "unproven"
    assert judgement.counts["sent"] == 0


def test_recovery_is_measured_from_the_last_heal() -> None:
    """The recovery time runs from the last heal to the first acknowledgement after it, and there is none without."""
    judgement = judge(bitten_run().finished())
    # Healed, attempt, ok: two events later.
    assert judgement.recovery_seconds == pytest.approx(0.002)
    script = Script()
    script.rows(script.send())
    assert judge(script.finished()).recovery_seconds is None


@pytest.mark.parametrize("bite", [True, False, None])
def test_anomaly_outweighs_a_missing_bite(bite: bool | None) -> None:
    """What is broken is broken, whether or not the fault was seen to bite."""
    judgement = judge(bitten_run(bite=bite, row=False).finished())
    assert judgement.verdict == "broken"
    assert judgement.why == "exactly-once in total order does not hold: lost"


def test_error_outweighs_an_anomaly() -> None:
    """A run in which something around the traffic failed says nothing, whatever it shows."""
    script = bitten_run(row=False)
    script.failed()
    judgement = judge(script.finished())
    assert (judgement.verdict, judgement.why) == ("error", "toxiproxy: it does not answer")
    assert judgement.anomalies == []  # what it lacks may only not have been read


@pytest.mark.parametrize("row", [True, False])
def test_interrupted_run_is_an_error(row: bool) -> None:
    """A history without its last event is that of an interrupted run, and is never judged by what it lacks."""
    judgement = judge(bitten_run(row=row).history())
    assert judgement.verdict == "error"
    assert "interrupted" in judgement.why


def test_reported_anomaly_leaves_the_claim_kept() -> None:
    """What the claim does not promise does not break it, and is still reported."""
    script = Script(guarantee="at-least-once")
    posted = script.send()
    script.rows(posted, posted)
    judgement = judge(script.finished())
    assert judgement.verdict == "kept"
    assert [anomaly.kind for anomaly in judgement.reported] == ["duplicate"]


def test_counts_are_those_of_messages() -> None:
    """The counts of a run count messages and attempts, foreign rows, and the anomalies that are asked for most."""
    script = Script()
    first, second = script.send(), script.send()
    retried = script.post()
    script.attempt(retried)
    script.info(retried)
    script.attempt(retried)
    script.acknowledge(retried)
    script.give_up()
    script.rows(second, first, first)
    script.row("foreign")
    script.row(content_of(identity("zed", 1)))
    assert judge(script.finished()).counts == {
        "sent": 4,
        "acknowledged": 3,
        "stored": 2,
        "attempts": 5,
        "foreign": 1,
        "lost": 1,
        "duplicate": 1,
        "reordered": 1,
        "unexpected": 1,
    }


def test_acknowledged_are_those_that_the_server_acknowledged() -> None:
    """What was handed over counts as acknowledged when its acknowledgement came, and not for being handed over."""
    script = Script()
    answered, unanswered = script.post(policy="once"), script.post(policy="once")
    for posted in (answered, unanswered):
        script.settle(posted, "handed-over")
        script.attempt(posted)
    script.ok(answered)
    script.info(unanswered)
    script.rows(answered, unanswered)
    counts = judge(script.finished()).counts
    assert (counts["sent"], counts["acknowledged"], counts["stored"]) == (2, 1, 2)


def test_details_name_what_a_reader_looks_for() -> None:
    """The detail of an anomaly names rows by their ids and shows where two contents part."""
    script = Script()
    first, second = script.send(), script.send()
    script.rows(second, first, first)
    script.row(second.content[:-3])
    details = {(a.kind, a.message): a.detail for a in judge(script.finished()).anomalies}
    assert details["duplicate", first.message] == "stored 2 times: rows 2, 3"
    assert details["reordered", first.message] == f"stored as row 2, after the later {second.message} (row 1)"
    length = len(second.content)
    assert details["corrupted", second.message] == (
        f"row 4: sent {length} characters, found {length - 3}; they part at character {length - 3}: "
        "sent '002', found ''"
    )


# -- what receivers get ------------------------------------------------------------------------------------------


def received_as(content: str | None) -> checker.Judgement:
    """One message, stored, and received with this content by a receiver that is promised everything."""
    script = Script(receivers="exactly-once")
    script.receiving("rita")
    posted = script.send()
    script.ok(posted)
    script.row(posted.content)
    script.broadcast("rita", posted.content if content is None else content.format(posted=posted.content))
    return judge(script.finished())


def test_received_with_other_content_is_corrupted() -> None:
    """A broadcast that holds the message's identity and not all of it breaks the claim, and names the receiver."""
    judgement = received_as("{posted} and more")
    assert [(a.kind, a.receiver) for a in judgement.broken_by] == [("corrupted", "rita")]
    assert "received by rita: sent" in judgement.broken_by[0].detail


def test_received_as_it_was_sent_is_not_corrupted() -> None:
    """The near miss: the same content, however it came."""
    assert received_as(None).anomalies == []


def test_row_that_was_stored_otherwise_and_broadcast_so_is_corrupted_once() -> None:
    """A receiver that got what the row holds adds nothing to what is said of the row."""
    script = Script(receivers="exactly-once")
    script.receiving("rita")
    posted = script.send()
    script.ok(posted)
    other = f"{posted.content} cut"
    script.row(other)
    script.broadcast("rita", other)
    assert [(a.kind, a.receiver) for a in judge(script.finished()).broken_by] == [("corrupted", None)]


# -- without acknowledgements ------------------------------------------------------------------------------------


def unanswered_run(*, before: bool = True, during: bool = True, after: bool = True) -> h.History:
    """A run at most once of a sender that asks for no acknowledgement; which of its messages were stored."""
    script = Script(guarantee="at-most-once", order="none")
    posted = [script.hand_over()]
    script.fault()
    posted.append(script.hand_over())
    script.bitten(posted[-1])
    script.healed()
    posted.append(script.hand_over())
    script.rows(*(each for each, stored in zip(posted, (before, during, after), strict=True) if stored))
    return script.finished()


@pytest.mark.parametrize(
    ("stored", "verdict", "why"),
    [
        ({}, "kept", "held"),
        ({"during": False}, "kept", "held"),
        ({"before": False}, "unproven", "before the fault"),
        ({"after": False}, "unproven", "posted after the fault"),
        ({"before": False, "during": False, "after": False}, "unproven", "no message was acknowledged"),
    ],
    ids=str,
)
def test_what_was_handed_over_has_arrived_when_it_is_stored(stored: dict[str, bool], verdict: str, why: str) -> None:
    """Where nobody asks for acknowledgements the rows show that the claim was exercised before and after the fault."""
    judgement = judge(unanswered_run(**stored))
    assert (judgement.verdict, judgement.broken_by) == (verdict, [])
    assert why in judgement.why
    assert (judgement.counts["acknowledged"], judgement.recovery_seconds, judgement.worst_delay_seconds) == (
        0,
        None,
        None,
    )


def test_message_handed_over_and_lost_breaks_what_is_claimed_to_arrive() -> None:
    """A sender that asks for nothing is owed its message all the same where the target claims to store it."""
    history = unanswered_run(during=False)
    claimed = msgspec.structs.replace(history.started, guarantee="at-least-once")
    judgement = judge(h.History([claimed, *history.events[1:]]))
    assert (judgement.verdict, [anomaly.kind for anomaly in judgement.broken_by]) == ("broken", ["lost"])


def test_acknowledgement_outweighs_being_handed_over() -> None:
    """A message that was handed over and acknowledged too has arrived when it was acknowledged."""
    script = Script()
    posted = script.post(policy="once")
    script.settle(posted, "handed-over")
    script.attempt(posted)
    script.ok(posted)
    script.rows(posted)
    fate = fold(script.history()).messages[posted.message]
    assert (fate.settled_at, fate.arrived_at) == (0.002, 0.004)


@pytest.mark.parametrize("outcome", ["gave-up", "acknowledged"])
def test_stored_message_of_another_outcome_has_not_arrived_by_being_settled(outcome: str) -> None:
    """Only what was handed over is taken for arrived without an acknowledgement."""
    script = Script()
    posted = script.post()
    script.attempt(posted)
    script.settle(posted, "gave-up" if outcome == "gave-up" else "acknowledged")
    script.rows(posted)
    assert fold(script.history()).messages[posted.message].arrived_at is None


# -- the worst delay ---------------------------------------------------------------------------------------------


def test_worst_delay_is_the_longest_from_posting_to_the_acknowledgement() -> None:
    """Of several messages that were acknowledged the slowest counts, from its posting over all its attempts."""
    script = Script()
    slow, quick = script.post(), script.post("bob")
    script.attempt(quick)
    script.acknowledge(quick)
    script.attempt(slow)
    script.info(slow)
    script.attempt(slow)
    script.acknowledge(slow)
    script.rows(quick, slow)
    # bob: posted at 2, acknowledged at 4; alice: posted at 1, acknowledged at 9.
    assert judge(script.finished()).worst_delay_seconds == pytest.approx(0.008)


def test_worst_delay_leaves_out_what_was_not_acknowledged_in_time_and_the_marker() -> None:
    """Neither a message without an answer, nor a late answer, nor the harness's own marker makes the worst delay."""
    script = Script()
    open_ended, marker = script.post("bob"), script.post(h.MARKER)
    script.attempt(open_ended)
    posted = script.send()
    script.info(open_ended, timed_out=True)
    script.late_ok(open_ended)
    script.attempt(marker)
    script.acknowledge(marker)
    script.rows(posted, marker)
    judgement = judge(script.finished())
    assert judgement.worst_delay_seconds == pytest.approx(0.002)


def test_run_without_an_acknowledgement_has_no_worst_delay() -> None:
    """Nothing acknowledged, nothing measured."""
    script = Script()
    script.give_up()
    assert judge(script.finished()).worst_delay_seconds is None


# -- damaged files -----------------------------------------------------------------------------------------------


def refused(history: h.History, event: str) -> None:
    """Check that a history is refused as damaged, with the event named."""
    with pytest.raises(HarnessError, match=rf"event \d+ of the history does not fit .*: {event}\("):
        judge(history)


UNKNOWN = identity("zed", 9)


@pytest.mark.parametrize(
    "event",
    [
        h.Attempt(time=0.0, message=UNKNOWN, attempt=1, offset="", connection=1),
        h.Ok(time=0.0, message=UNKNOWN, attempt=1, late=False),
        h.Ok(time=0.0, message=UNKNOWN, attempt=1, late=True),
        h.Fail(time=0.0, message=UNKNOWN, attempt=1, reason=""),
        h.Info(time=0.0, message=UNKNOWN, attempt=1, reason=""),
        h.Settled(time=0.0, message=UNKNOWN, outcome="acknowledged"),
        h.Bitten(time=0.0, number=1, fault="cut", message=UNKNOWN, seen=True, evidence=""),
        h.Received(time=0.0, receiver="nobody", server_offset=None, content=content_of(ALICE_1)),
        h.Received(time=0.0, receiver="nobody", server_offset=None, content=None),
        h.FaultEnded(time=0.0, number=9),
        # The message is there, the attempt is not.
        h.Ok(time=0.0, message=ALICE_1, attempt=2, late=False),
        h.Info(time=0.0, message=ALICE_1, attempt=2, reason=""),
        # Named a second time.
        h.Invoke(time=0.0, message=ALICE_1, sender="alice", sequence=1, content="", policy="once"),
        h.Attempt(time=0.0, message=ALICE_1, attempt=1, offset="", connection=1),
        # Contradicts an earlier one.
        h.Info(time=0.0, message=ALICE_1, attempt=1, reason=""),
        h.Fail(time=0.0, message=ALICE_1, attempt=1, reason=""),
        # An identity that could not be told in a row.
        h.Invoke(time=0.0, message=f"{RUN}-Alice-0001", sender="Alice", sequence=1, content="", policy="once"),
        h.Invoke(time=0.0, message="other1-alice-0001", sender="alice", sequence=1, content="", policy="once"),
    ],
    ids=str,
)
def test_event_that_does_not_fit_is_an_error_that_names_it(event: h.AnyEvent) -> None:
    """A history whose events do not fit each other is refused with the event named, and is never judged."""
    script = Script()
    script.rows(script.send())
    script.events.append(event)
    refused(script.finished(), type(event).__name__)


@pytest.mark.parametrize("seen_in", ["row", "broadcast"])
def test_message_posted_after_it_was_seen_is_an_error(seen_in: str) -> None:
    """A message cannot be stored or received before it is posted: such a file has been shuffled."""
    script = Script()
    script.receiving("rita")
    if seen_in == "row":
        script.row(content_of(ALICE_1))
    else:
        script.broadcast("rita", content_of(ALICE_1))
    script.send()
    refused(script.finished(), "Invoke")


def test_acknowledgement_that_comes_twice_is_one() -> None:
    """A server that acknowledges an attempt twice is not taken for a damaged file."""
    script = Script()
    posted = script.send()
    script.ok(posted)
    script.rows(posted)
    assert judge(script.finished()).verdict == "kept"
    assert fold(script.history()).messages[posted.message].acknowledged_at == pytest.approx(0.003)


@settings(deadline=None, max_examples=100)
@given(st.lists(events(), max_size=25))
def test_any_events_are_judged_or_refused(happened: list[h.AnyEvent]) -> None:
    """Whatever a file holds, the judge gives a judgement or refuses it, and fails in no other way."""
    try:
        judgement = judge(in_time(started(), happened))
    except HarnessError as error:
        assert "does not fit" in str(error)  # noqa: PT017 - either end is right
    else:
        assert judgement.verdict in get_args(checker.VerdictWord)


@settings(deadline=None, max_examples=50)
@given(sketches(), st.data())
def test_file_with_lines_missing_or_moved_is_judged_or_refused(sketch: Sketch, data: st.DataObject) -> None:
    """A valid history with lines taken out or moved is judged or refused, and the judge fails in no other way."""
    happened = list(sketch.history())[1:]
    for place in data.draw(st.lists(st.integers(0, len(happened) - 1), max_size=3)):
        moved = happened.pop(min(place, len(happened) - 1))
        if data.draw(st.booleans()):
            happened.insert(data.draw(st.integers(0, len(happened))), moved)
    try:
        judge(h.History([sketch.started, *happened]))
    except HarnessError as error:
        assert "does not fit" in str(error)  # noqa: PT017 - either end is right


def saved(history: h.History, folder: Path) -> h.SavedHistory:
    """A history, written to a file that is read anew each time."""
    path = folder / "history.jsonl"
    path.write_bytes(b"".join(msgspec.json.encode(event) + b"\n" for event in history))
    return h.SavedHistory(path)


def outcome_of(history: h.History) -> checker.Judgement | str:
    """The judgement, or why there is none."""
    try:
        return judge(history)
    except HarnessError as error:
        return str(error)


@settings(deadline=None, max_examples=100)
@given(st.lists(events(), max_size=25))
def test_any_events_are_judged_alike_in_memory_and_in_a_file(happened: list[h.AnyEvent]) -> None:
    """Where a history is read from changes neither a judgement nor a refusal."""
    history = in_time(started(), happened)
    with TemporaryDirectory() as folder:
        assert outcome_of(saved(history, Path(folder))) == outcome_of(history)


@settings(deadline=None, max_examples=100)
@given(sketches(), st.data())
def test_damaged_history_is_judged_alike_in_memory_and_in_a_file(sketch: Sketch, data: st.DataObject) -> None:
    """Also what is read again for the text of an anomaly is the same; blocks of any size end anywhere in a line."""
    happened = list(sketch.history())[1:]
    for place in data.draw(st.lists(st.integers(0, len(happened) - 1), max_size=3)):
        happened[place] = data.draw(st.sampled_from(happened))
    history = h.History([sketch.started, *happened])
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(h, "_BLOCK_BYTES", data.draw(st.integers(1, 2000)))
        assert outcome_of(saved(history, Path(folder))) == outcome_of(history)


@settings(deadline=None, max_examples=100)
@given(sketches(), st.data())
def test_fate_is_the_same_whether_its_message_is_set_apart_or_not(sketch: Sketch, data: st.DataObject) -> None:
    """What is kept in columns is what a fate of its own would say: a late acknowledgement adds nothing but itself."""
    history = sketch.history()
    plain = fold(history)
    posted = data.draw(st.sampled_from(sketch.acknowledged))
    again = fold(h.History([*history.events, h.Ok(time=99.0, message=posted.message, attempt=1, late=True)]))
    fate, other = plain.messages[posted.message], again.messages[posted.message]
    fate.attempts[0].late = other.attempts[0].late = True
    assert msgspec.structs.replace(other, history=history) == fate


# -- valid histories, and their damages --------------------------------------------------------------------------


@settings(deadline=None, max_examples=100)
@given(sketches())
def test_valid_history_is_kept(sketch: Sketch) -> None:
    """Any run in which everything went as promised is kept, and at most false failures are reported."""
    judgement = judge(sketch.history())
    assert judgement.verdict == "kept"
    assert judgement.broken_by == []
    assert {anomaly.kind for anomaly in judgement.reported} <= {"false_failure"}
    assert judgement.counts["sent"] == len(sketch.posted)
    assert judgement.counts["acknowledged"] == len(sketch.acknowledged)
    assert judgement.counts["stored"] == len(sketch.stored)
    assert judgement.counts["foreign"] == len(sketch.rows) - len(sketch.stored)


class Draw(Protocol):
    """How a damage draws what it damages."""

    def __call__(self, strategy: st.SearchStrategy[T], /) -> T:
        """Draw one value."""
        ...


Place = tuple[str | None, str | None]
Damage = Callable[[Sketch, Draw], Place]
DAMAGES: dict[str, tuple[checker.Kind, Damage]] = {}


def damage(kind: checker.Kind) -> Callable[[Damage], Damage]:
    """Declare a function that damages a history: it must show `kind`, at the message and receiver that it returns."""

    def declare(apply: Damage) -> Damage:
        DAMAGES[apply.__name__] = kind, apply
        return apply

    return declare


def some(draw: Draw, candidates: list[Posted]) -> Posted:
    """One of some messages."""
    return draw(st.sampled_from(candidates))


def two_of_a_sender(draw: Draw, sketch: Sketch) -> tuple[Posted, Posted]:
    """Two stored messages of one sender, in its order."""
    stored = sketch.of_sender(draw(st.sampled_from(sorted({posted.sender for posted in sketch.posted}))))
    first, second = sorted(draw(st.permutations(range(len(stored))))[:2])
    return stored[first], stored[second]


def without_outcome(sketch: Sketch, posted: Posted) -> None:
    """Take away what a sender was told of a message."""
    sketch.traffic = [
        event for event in sketch.traffic if not (isinstance(event, h.Settled) and event.message == posted.message)
    ]


def swap(things: list[T], one: int, other: int) -> None:
    """Exchange two elements of a list."""
    things[one], things[other] = things[other], things[one]


@damage("lost")
def row_of_an_acknowledged_message_removed(sketch: Sketch, draw: Draw) -> Place:
    """A commit that was acknowledged is gone."""
    posted = some(draw, sketch.acknowledged)
    del sketch.rows[sketch.places(posted)[0]]
    return posted.message, None


@damage("phantom")
def row_of_a_received_message_removed(sketch: Sketch, draw: Draw) -> Place:
    """A row that was broadcast is gone."""
    posted, receiver = some(draw, sketch.stored), draw(st.sampled_from(RECEIVERS))
    del sketch.rows[sketch.places(posted)[0]]
    return posted.message, receiver


@damage("duplicate")
def row_added_again(sketch: Sketch, draw: Draw) -> Place:
    """A row is there twice, anywhere."""
    posted = some(draw, sketch.stored)
    row = sketch.rows[sketch.places(posted)[0]]
    sketch.rows.insert(draw(st.integers(0, len(sketch.rows))), row)
    return posted.message, None


@damage("reordered")
def rows_of_a_sender_swapped(sketch: Sketch, draw: Draw) -> Place:
    """Two rows of one sender have changed places."""
    first, second = two_of_a_sender(draw, sketch)
    swap(sketch.rows, sketch.places(first)[0], sketch.places(second)[0])
    return first.message, None


def with_content(sketch: Sketch, posted: Posted, content: str | None, client_offset: str | None = None) -> None:
    """Change a row's content."""
    (place,) = sketch.places(posted)
    sketch.rows[place] = msgspec.structs.replace(sketch.rows[place], content=content, client_offset=client_offset)


@damage("corrupted")
def content_changed(sketch: Sketch, draw: Draw) -> Place:
    """A character of a row between its identities is another one, or one more."""
    posted = some(draw, sketch.stored)
    place = draw(st.integers(len(posted.message), len(posted.content) - len(posted.message)))
    other = "#" if posted.content[place] != "#" else "%"
    with_content(sketch, posted, f"{posted.content[:place]}{other}{posted.content[place + draw(st.integers(0, 1)) :]}")
    return posted.message, None


@damage("corrupted")
def content_truncated(sketch: Sketch, draw: Draw) -> Place:
    """The end of a row is missing, at most up to its leading identity."""
    posted = some(draw, sketch.stored)
    end = draw(st.integers(len(posted.message), len(posted.content) - 1))
    with_content(sketch, posted, posted.content[:end])
    return posted.message, None


@damage("corrupted")
def content_lost(sketch: Sketch, draw: Draw) -> Place:
    """A row holds nothing but its offset."""
    posted = some(draw, sketch.stored)
    with_content(sketch, posted, draw(st.sampled_from([None, "", "?"])), f"{posted.message}-1")
    return posted.message, None


@damage("unexpected")
def row_of_nobody_added(sketch: Sketch, draw: Draw) -> Place:
    """A row holds an identity of this run that nobody posted."""
    message = identity(draw(st.sampled_from(["alice", "zed"])), draw(st.integers(5, 20_000)))
    row = h.Row(time=0.0, id=None, client_offset=None, content=content_of(message))
    sketch.rows.insert(draw(st.integers(0, len(sketch.rows))), row)
    return message, None


@damage("aborted_read")
def stored_message_failed(sketch: Sketch, draw: Draw) -> Place:
    """Every attempt of a stored message turns out never to have been sent."""
    posted = some(draw, sketch.stored)
    sketch.traffic = [
        h.Fail(time=0.0, message=event.message, attempt=event.attempt, reason="not connected")
        if isinstance(event, h.Ok | h.Info) and event.message == posted.message
        else event
        for event in sketch.traffic
        if not (isinstance(event, h.Ok) and event.late and event.message == posted.message)
    ]
    return posted.message, None


@damage("false_failure")
def stored_message_given_up(sketch: Sketch, draw: Draw) -> Place:
    """The sender of a stored message is told that it failed."""
    posted = some(draw, sketch.acknowledged)
    sketch.traffic = [
        msgspec.structs.replace(event, outcome="gave-up")
        if isinstance(event, h.Settled) and event.message == posted.message
        else event
        for event in sketch.traffic
    ]
    return posted.message, None


@damage("not_durable")
def acknowledged_before_its_sync(sketch: Sketch, draw: Draw) -> Place:
    """The server was seen to write a message, and not to sync it, before its acknowledgement."""
    posted = some(draw, sketch.acknowledged)
    traced = h.Traced(time=0.0, message=posted.message, calls=UNSYNCED, acknowledged=True)
    sketch.traffic.append(traced)
    return posted.message, None


@damage("crashed")
def server_exited(sketch: Sketch, draw: Draw) -> Place:
    """The server ends by itself, at any time."""
    exited = h.ServerExited(time=0.0, status=-11, expected=False, reason="signal 11")
    sketch.traffic.insert(draw(st.integers(0, len(sketch.traffic))), exited)
    return None, None


@damage("slow_recovery")
def acknowledged_later_than_claimed(sketch: Sketch, draw: Draw) -> Place:
    """The target claims to recover sooner than it did."""
    if not any(isinstance(event, h.FaultEnded) for event in sketch.traffic):
        sketch.traffic[:0] = [
            h.FaultBegan(time=0.0, number=9, fault="cut", kind="link", on="alice"),
            h.FaultEnded(time=0.0, number=9),
        ]
    heal = max(place for place, event in enumerate(sketch.traffic) if isinstance(event, h.FaultEnded))
    acknowledged = [event for event in sketch.traffic[heal:] if isinstance(event, h.Ok) and not event.late]
    before = {event.message for event in sketch.traffic[:heal] if isinstance(event, h.Ok) and not event.late}
    posted = [
        place
        for place, event in enumerate(sketch.traffic)
        if isinstance(event, h.Invoke) and event.message not in before
    ]
    milliseconds = sketch.traffic.index(acknowledged[0]) - max(heal, posted[0])
    limit = draw(st.integers(0, milliseconds - 1)) / 1000
    sketch.started = msgspec.structs.replace(sketch.started, recovery_seconds=limit)
    return acknowledged[0].message, None


@damage("silent_drop")
def message_in_the_middle_unsettled(sketch: Sketch, draw: Draw) -> Place:
    """Nothing was said of a message that later ones of its sender overtook."""
    last = {posted.sender: posted for posted in sketch.posted}
    posted = some(draw, [posted for posted in sketch.posted if posted != last[posted.sender]])
    without_outcome(sketch, posted)
    return posted.message, None


@damage("stuck")
def last_message_unsettled(sketch: Sketch, draw: Draw) -> Place:
    """Nothing was said of a sender's last message."""
    posted = some(draw, list({posted.sender: posted for posted in sketch.posted}.values()))
    without_outcome(sketch, posted)
    return posted.message, None


@damage("missed")
def reception_dropped(sketch: Sketch, draw: Draw) -> Place:
    """A broadcast did not reach a receiver."""
    posted, receiver = some(draw, sketch.stored), draw(st.sampled_from(RECEIVERS))
    del sketch.receptions[receiver][sketch.heard(receiver, posted)]
    return posted.message, receiver


@damage("missed")
def every_reception_dropped(sketch: Sketch, draw: Draw) -> Place:
    """A receiver heard nothing at all."""
    posted, receiver = some(draw, sketch.stored), draw(st.sampled_from(RECEIVERS))
    sketch.receptions[receiver].clear()
    return posted.message, receiver


@damage("repeated")
def reception_repeated(sketch: Sketch, draw: Draw) -> Place:
    """A broadcast reached a receiver twice."""
    posted, receiver = some(draw, sketch.stored), draw(st.sampled_from(RECEIVERS))
    receptions = sketch.receptions[receiver]
    receptions.insert(draw(st.integers(0, len(receptions))), receptions[sketch.heard(receiver, posted)])
    return posted.message, receiver


@damage("misordered")
def receptions_of_a_sender_swapped(sketch: Sketch, draw: Draw) -> Place:
    """Two broadcasts of one sender reached a receiver in the wrong order."""
    (first, second), receiver = two_of_a_sender(draw, sketch), draw(st.sampled_from(RECEIVERS))
    swap(sketch.receptions[receiver], sketch.heard(receiver, first), sketch.heard(receiver, second))
    return first.message, receiver


@damage("phantom")
def unstored_message_received(sketch: Sketch, draw: Draw) -> Place:
    """A receiver got a message that is nowhere stored."""
    stored = {posted.message for posted in sketch.stored}
    unstored = [posted.message for posted in sketch.posted if posted.message not in stored]
    message, receiver = draw(st.sampled_from([*unstored, identity("zed", 1)])), draw(st.sampled_from(RECEIVERS))
    received = h.Received(time=0.0, receiver=receiver, server_offset=None, content=content_of(message))
    receptions = sketch.receptions[receiver]
    receptions.insert(draw(st.integers(0, len(receptions))), received)
    return message, receiver


def found_and_judged(sketch: Sketch, before: list[Finding], expected: Finding) -> None:
    """Check that a damage is found, was not there before, and gives the verdict that the claims demand."""
    judgement = judge(sketch.history())
    assert expected not in before
    assert expected in map(finding, judgement.anomalies)
    kind, message, _ = expected
    claims = sketch.started
    policies = {event.message: event.policy for event in sketch.traffic if isinstance(event, h.Invoke)}
    policy = policies.get(message or "", "persistent")
    if breaks_by_design(kind, claims.guarantee, claims.order, claims.receivers, policy):
        assert judgement.verdict == "broken"
        assert kind in judgement.why
        assert expected in map(finding, judgement.broken_by)
    else:
        assert expected in map(finding, judgement.reported)


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_found(name: str) -> None:
    """Each damage to a valid history is found under its own name, on its own message, and breaks what it has to."""
    kind, apply = DAMAGES[name]

    @settings(deadline=None, max_examples=25)
    @given(sketches(), st.data())
    def check(sketch: Sketch, data: st.DataObject) -> None:
        before = findings(sketch.history())
        message, receiver = apply(sketch, data.draw)
        found_and_judged(sketch, before, (kind, message, receiver))

    check()


@settings(deadline=None, max_examples=25)
@given(sketches(order="total", senders=2), st.data())
def test_neighbours_of_two_senders_swapped_at_a_receiver_are_found(sketch: Sketch, data: st.DataObject) -> None:
    """Under `total` two neighbouring broadcasts of different senders in the wrong order are found at their receiver."""
    receiver = data.draw(st.sampled_from(RECEIVERS))
    neighbours = list(zip(sketch.stored, sketch.stored[1:], strict=False))
    first, second = data.draw(st.sampled_from([(a, b) for a, b in neighbours if a.sender != b.sender]))
    before = findings(sketch.history())
    swap(sketch.receptions[receiver], sketch.heard(receiver, first), sketch.heard(receiver, second))
    found_and_judged(sketch, before, ("misordered", first.message, receiver))


def test_every_anomaly_has_its_damage() -> None:
    """No kind is left out of the damages."""
    assert {kind for kind, _ in DAMAGES.values()} == set(get_args(checker.Kind))


# -- parts of a soak ---------------------------------------------------------------------------------------------


def after_a_part(**counts: int) -> Script:
    """A history that begins behind a part of a soak in which alice has sent three messages."""
    script = Script()
    script.events.append(
        h.Soaked(time=0.0, parts=1, seconds=9.0, counts=counts, faults={"flap": 2}, sequences={"alice": 3})
    )
    return script


def test_row_of_a_message_of_an_earlier_part_is_a_duplicate() -> None:
    """Its row was read before; one of a sender that was not there, or that comes later, was never posted."""
    script = after_a_part()
    script.rows(script.send(sequence=4))
    script.row(content_of(identity("alice", 3)))
    script.row(content_of(identity("alice", 5)))
    script.row(content_of(identity("bob", 1)))
    assert findings(script.finished()) == [
        ("duplicate", identity("alice", 3), None),
        ("unexpected", identity("alice", 5), None),
        ("unexpected", identity("bob", 1), None),
    ]


@pytest.mark.parametrize(("receivers", "verdict"), [("exactly-once", "broken"), ("at-least-once", "kept")])
def test_broadcast_of_an_earlier_part_is_repeated_and_no_phantom(receivers: h.Receivers, verdict: str) -> None:
    """It had been received before, as was seen when that part ended."""
    script = Script(receivers=receivers)
    script.events += after_a_part().events
    script.receiving("rita")
    posted = script.send(sequence=4)
    script.rows(posted)
    script.receives("rita", posted)
    script.events.append(
        h.Received(time=0.0, receiver="rita", server_offset=3, content=content_of(identity("alice", 3)))
    )
    history = script.finished()
    assert findings(history) == [("repeated", identity("alice", 3), "rita")]
    assert judge(history).verdict == verdict


@pytest.mark.parametrize(
    ("rows", "same", "found"),
    [(3, True, []), (2, False, [("lost", None, None)]), (3, False, [("corrupted", None, None)])],
)
def test_rows_of_earlier_parts_have_to_stay(rows: int, same: bool, found: list[tuple[str, None, None]]) -> None:
    """Gone, they are lost, and otherwise corrupted."""
    script = after_a_part()
    script.rows(script.send(sequence=4))
    script.events.append(h.Reread(time=0.0, before=3, rows=rows, same=same))
    assert findings(script.finished()) == found


def test_counts_are_those_of_all_parts_and_an_unproven_one_remains() -> None:
    """A part that proved nothing is not made good by the next."""
    script = after_a_part(sent=3, acknowledged=3, stored=2)
    script.rows(script.send(sequence=4))
    judgement = judge(script.finished())
    assert judgement.verdict == "kept"
    assert [judgement.counts[what] for what in ("sent", "acknowledged", "stored")] == [4, 4, 3]
    (soaked,) = after_a_part().events
    script = Script()
    script.events.append(msgspec.structs.replace(soaked, unproven="the flap was not seen"))
    script.rows(script.send(sequence=4))
    judgement = judge(script.finished())
    assert (judgement.verdict, judgement.why) == ("unproven", "in a part before: the flap was not seen")
