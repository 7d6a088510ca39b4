"""Sweeps on a real system: every position is a case, each cut is where its case says, and nothing is left out."""

import re
from pathlib import Path
from typing import Literal

import msgspec
import pytest

from harness import coverage, node, trace
from harness import history as h
from harness.calls import Error, addressed
from harness.checker import judge
from harness.errors import HarnessError
from harness.link import Direction
from harness.outcome import Outcome, outcomes
from harness.scenario import CONTROLS, Run, has_broken_case
from harness.sweeps import pairs, syscalls, wire
from harness.system import System
from harness.target import load
from harness.targets.ledger import ENTRIES
from tests.systems import in_event_loop
from tests.test_system import CLAIM, Place, of, place

SOME = Run("control", CONTROLS["once"], "persistent", None, {}, "python", CLAIM.target, space="wire/it")
ALL = msgspec.structs.replace(CLAIM, receivers=False, space="wire/it")


async def swept(here: Place, direction: Direction, run: Run) -> tuple[h.History, list[Outcome]]:
    """The history of a sweep and what came of its cases."""

    async def schedule(system: System) -> None:
        await wire.every_byte(system, direction)

    history = await here.run(schedule, run)
    return history, outcomes(history, judge(history))


@in_event_loop
async def test_every_byte_of_a_message_is_a_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No position is left out, and the one behind the last byte is not cut: the frame was as long as that."""
    async with place(tmp_path, monkeypatch) as here:
        history, found = await swept(here, "upstream", ALL)
        assert of(history, h.Failed) == []
        assert [outcome.case for outcome in found] == [f"wire/it/{count}" for count in range(len(found))]
        assert [outcome.kind for outcome in found[:-2]] == ["resent"] * (len(found) - 2)
        assert found[-2].kind in ("resent", "acknowledged")
        assert found[-1].kind == "untouched"
        message = of(history, h.Invoke)[-1]
        frame = len(f'420["chat message","{message.content}","{of(history, h.Attempt)[-1].offset}"]') + 8
        assert len(found) - 2 == frame
        assert judge(history).verdict == "kept"
        here.require_nothing_left()


@in_event_loop
async def test_every_byte_of_an_answer_is_a_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is cut before the acknowledgement is sent again and found; behind it is nothing to send again."""
    async with place(tmp_path, monkeypatch) as here:
        history, found = await swept(here, "downstream", ALL)
        assert of(history, h.Failed) == []
        acknowledgement = len("431[]") + 2
        assert {outcome.kind for outcome in found[:acknowledgement]} == {"resent"}
        assert {outcome.kind for outcome in found[acknowledgement:-1]} <= {"resent", "acknowledged"}
        assert found[-1].kind == "untouched"
        assert len(of(history, h.Row)) == len(of(history, h.Invoke))


@in_event_loop
async def test_server_that_stores_twice_is_broken_where_the_acknowledgement_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its constraint the server doubles the messages whose acknowledgement did not get through.

    A second broadcast of such a message can be what is cut in the next case, which then proves nothing.
    """
    async with place(tmp_path, monkeypatch) as here:
        history, found = await swept(here, "downstream", msgspec.structs.replace(ALL, server="without_unique"))
        acknowledgement = len("431[]") + 2
        assert found[0].words == "duplicate"
        assert {outcome.words for outcome in found[:acknowledgement]} <= {"duplicate", "not cut where it should be"}
        assert not [outcome for outcome in found if outcome.kind == "resent"]
        assert judge(history).verdict == "broken"


@in_event_loop
async def test_one_case_can_be_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs alone; one that is not there is an error that says which is the last."""
    async with place(tmp_path, monkeypatch) as here:
        _, found = await swept(here, "upstream", msgspec.structs.replace(ALL, only="7"))
        assert [(outcome.case, outcome.kind) for outcome in found] == [("wire/it/7", "resent")]
        history, found = await swept(here, "upstream", msgspec.structs.replace(ALL, only="5000"))
        assert found == []
        (failed,) = of(history, h.Failed)
        assert failed.reason.startswith("there is no case wire/it/5000: the last one is wire/it/1")


@in_event_loop
async def test_shares_of_a_sweep_are_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each case is in one of them; more shares than cases are an error, and so are cases behind the last."""
    async with place(tmp_path, monkeypatch) as here:
        positions = []
        for share in ((1, 3), (2, 3), (3, 3)):
            _, found = await swept(here, "upstream", msgspec.structs.replace(ALL, share=share))
            positions += [int(outcome.case.rpartition("/")[2]) for outcome in found]
        assert positions == list(range(len(positions)))
        _, found = await swept(here, "upstream", msgspec.structs.replace(ALL, only="3..5"))
        assert [outcome.case for outcome in found] == ["wire/it/3", "wire/it/4", "wire/it/5"]
        for wrong, said in (
            (msgspec.structs.replace(ALL, only=f"3..{len(positions)}"), f"there is no case wire/it/{len(positions)}: "),
            (msgspec.structs.replace(ALL, only="5..3"), "there is no case in wire/it/5..3: "),
            (msgspec.structs.replace(ALL, share=(1, 5000)), f"wire/it has {len(positions)} cases: "),
        ):
            history, found = await swept(here, "upstream", wrong)
            assert found == []
            assert of(history, h.Failed)[0].reason.startswith(said)


@in_event_loop
async def test_control_goes_through_some_of_the_whole_whatever_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A case that threatens nothing is no reason for a control to show nothing."""
    async with place(tmp_path, monkeypatch) as here:
        _, found = await swept(here, "upstream", msgspec.structs.replace(SOME, only="7"))
        _, same = await swept(here, "upstream", msgspec.structs.replace(SOME, share=(2, 3)))
        assert [outcome.case for outcome in found] == [outcome.case for outcome in same]
        assert 10 <= len(found) <= 15
        assert found[0].case == "wire/it/0"


@pytest.mark.parametrize(
    ("direction", "length", "stands"),
    [
        ("upstream", 131, {0: "frame header", 5: "frame header", 6: "payload", 130: "payload"}),
        ("upstream", 134, {0: "frame header", 7: "frame header", 8: "payload"}),
        ("downstream", 127, {1: "header of the first frame", 2: "behind the header of the first frame"}),
        (
            "downstream",
            128,
            {1: "header of the first frame", 2: "", 3: "", 4: "behind the header of the first frame"},
        ),
    ],
)
def test_place_says_of_a_frame_what_its_length_tells(direction: Direction, length: int, stands: dict[int, str]) -> None:
    """Frames of clients have a mask. Of several frames downstream nobody knows how long the first one is."""
    for at, part in stands.items():
        assert wire.part_of_exchange(direction, at, length) == part
        assert wire.place(at, length, part) == f"byte {at + 1} of {length}" + (f", {part}" if part else "")
    assert wire.place(length, length) == "behind the last byte"
    assert wire.place(length + 1, length) == "one byte more than there are"


@pytest.mark.parametrize("direction", ["upstream", "downstream"])
@in_event_loop
async def test_handshake_is_cut_at_its_first_and_last_bytes(
    direction: Direction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message waits for each of them, and one byte more than a handshake has lets it through."""

    async def schedule(system: System) -> None:
        await wire.every_byte_of_a_handshake(system, direction)

    async with place(tmp_path, monkeypatch) as here:
        history = await here.run(schedule, SOME)
        found = outcomes(history, judge(history))
        assert of(history, h.Failed) == []
        assert [outcome.kind for outcome in found[:-1]] == ["resent"] * (len(found) - 1)
        assert found[0].evidence.startswith(f"a handshake was cut after 0 bytes {direction} while ")
        parts = [outcome.place.partition(", ")[2] for outcome in (found[0], found[-3])]
        assert parts == (["HTTP request", "CONNECT, payload"] if direction == "upstream" else ["", ""])
        assert found[-1].kind == "untouched"
        assert judge(history).verdict == "kept"


@pytest.mark.parametrize(
    "client",
    ["python", pytest.param("node", marks=pytest.mark.skipif(node.lack() is not None, reason="takes Node.js"))],
)
@pytest.mark.parametrize("direction", ["upstream", "downstream"])
@in_event_loop
async def test_handshake_over_polling_is_cut_on_each_of_its_connections(
    direction: Direction, client: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind what opens its session, too, where the client waits there."""

    async def schedule(system: System) -> None:
        await wire.every_byte_of_a_handshake(system, direction)

    monkeypatch.setattr(wire, "FIRST", 10)  # with numbers of two digits
    async with place(tmp_path, monkeypatch) as here:
        history = await here.run(schedule, msgspec.structs.replace(SOME, client=client), transport="polling")
        found = outcomes(history, judge(history))
        assert of(history, h.Failed) == []
        assert judge(history).verdict == "kept", [outcome for outcome in found if not outcome.good]
        assert {outcome.kind for outcome in found[:-3]} == {"resent"}  # the last two may be cut or not
        assert found[-1].kind == "untouched"
        behind = [outcome for outcome in found if "that open its session among them" in outcome.evidence]
        assert bool(behind) is (client == "python")


@pytest.mark.parametrize("direction", ["upstream", "downstream"])
@in_event_loop
async def test_upgrade_is_cut_from_its_first_byte_to_its_last(
    direction: Direction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it fails the connection fails with it, or stays with polling; the message is stored once in any case."""

    async def schedule(system: System) -> None:
        await wire.every_byte_of_a_handshake(system, direction)

    async with place(tmp_path, monkeypatch) as here:
        history = await here.run(schedule, SOME, transport="upgrade")
        found = outcomes(history, judge(history))
        assert of(history, h.Failed) == []
        assert judge(history).verdict == "kept"
        assert [outcome.kind for outcome in found[:-1]] == ["resent"] * (len(found) - 1)
        assert found[-1].kind == "untouched"
        assert [outcome for outcome in found if outcome.evidence.endswith("waited (it was not upgraded)")]


@in_event_loop
async def test_stream_of_answers_is_cut_among_what_others_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is under way is stored once, as is what the others send; behind all that came nothing is cut."""
    monkeypatch.setattr(wire, "_LATER", wire.FIRST)  # enough for a few cases
    async with place(tmp_path, monkeypatch) as here:
        history = await here.run(wire.every_byte_of_the_answers_to_a_stream, SOME)
        found = outcomes(history, judge(history))
        assert of(history, h.Failed) == []
        assert judge(history).verdict == "kept"
        assert (found[0].kind, found[-1].kind) == ("resent", "untouched")
        assert {outcome.kind for outcome in found[:-1]} <= {"resent", "acknowledged"}
        assert {event.sender for event in of(history, h.Invoke)} == {"lanea", "laneb", "lanec"}


@pytest.mark.skipif(node.lack() is not None, reason="takes Node.js")
@pytest.mark.parametrize("direction", ["upstream", "downstream"])
@in_event_loop
async def test_official_client_is_cut_over_polling_to_its_last_byte(
    direction: Direction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not tell what travels on each of its connections: the limit does."""

    async def schedule(system: System) -> None:
        await wire.every_byte(system, direction, lanes=1)

    # With numbers of two digits, and one dry run: each has some twenty cuts.
    monkeypatch.setattr(wire, "FIRST", 10)
    monkeypatch.setattr(wire, "_DRY_RUNS", 1)
    async with place(tmp_path, monkeypatch) as here:
        history = await here.run(schedule, msgspec.structs.replace(SOME, client="node"), transport="polling")
        found = outcomes(history, judge(history))
        assert of(history, h.Failed) == []
        # An exchange can be longer than the one that was measured: then the last case is cut, and alone proves nothing.
        is_longer = found[-1].kind == "unproven"
        assert judge(history).verdict == ("unproven" if is_longer else "kept")
        assert [outcome.kind for outcome in found[1:] if not outcome.good] == ["unproven"] * is_longer
        assert (found[0].kind, is_longer or found[-1].kind == "untouched") == ("resent", True)
        assert found[1].evidence.startswith("the connection was cut after ")


@pytest.mark.parametrize("most", [0, 1, 2, 3, 255, 256, 366])
@in_event_loop
async def test_largest_limit_that_cuts_is_found(most: int) -> None:
    """Whatever it is; where each cuts, that is an error."""

    async def cuts(count: int) -> bool:
        return count <= most

    async def always(_: int) -> bool:
        return True

    assert await wire._most_that_cuts(cuts) == most
    with pytest.raises(HarnessError, match="cuts what is to be measured"):
        await wire._most_that_cuts(always)


@in_event_loop
async def test_control_runs_some_cases_and_loses_each_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A control is no sweep of its own: some positions, with the first and the last, and what is cut is lost."""
    async with place(tmp_path, monkeypatch) as here:
        history, found = await swept(here, "upstream", msgspec.structs.replace(SOME, policy="once"))
        assert of(history, h.Failed) == []
        assert 10 <= len(found) <= 20
        assert {outcome.words for outcome in found[:-2]} == {"lost"}
        assert found[-1].kind == "untouched"


# -- system calls ------------------------------------------------------------------------------------------------

FORKING = msgspec.structs.replace(CLAIM, receivers=False, space="syscall/it")
TRACED = pytest.mark.skipif(trace.lack() is not None, reason="system calls cannot be traced here")


async def called(here: Place, action: Literal["kill"] | Error, run: Run = FORKING) -> tuple[h.History, list[Outcome]]:
    """The history of a sweep of system calls, and what came of its cases."""

    async def schedule(system: System) -> None:
        await syscalls.every_call(system, action)

    history = await here.run(schedule, run, target=run.target)
    return history, outcomes(history, judge(history))


@TRACED
@in_event_loop
async def test_server_is_killed_at_every_call_by_which_it_handles_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each case is at the call that its place names, none is left out, and the last one is at none."""
    async with place(tmp_path, monkeypatch, forking=True) as here:
        history, found = await called(here, "kill")
        assert of(history, h.Failed) == []
        assert judge(history).verdict == "kept"
        assert [outcome.case for outcome in found] == [f"syscall/it/{count}" for count in range(len(found))]
        assert {outcome.kind for outcome in found[:-1]} == {"resent", "acknowledged"}
        assert (found[-1].kind, found[-1].place) == ("untouched", "behind the last call")
        for outcome in found[:-1]:
            assert f"the server was killed at {outcome.place}, its call " in outcome.evidence
        places = [outcome.place for outcome in found]
        assert {"pwrite64 store-wal 24", "fdatasync store-wal", "sendto socket"} <= set(places)
        synced = found[places.index("fdatasync store-wal")]
        assert synced.kind == "resent"
        (untouched,) = (event for event in of(history, h.Traced) if event.message in found[-1].evidence)
        assert set(places[:-1]) <= {str(call) for call in addressed([untouched.calls])}
        # Each message once, although each case began with the same store.
        assert len(of(history, h.Row)) == len(of(history, h.Invoke))
        here.require_nothing_left()


@TRACED
@pytest.mark.parametrize(("error", "names"), [("EIO", {"pwrite64", "fdatasync"}), ("ENOSPC", {"pwrite64"})])
@in_event_loop
async def test_every_write_of_the_store_fails_once(
    error: Error, names: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And every sync with EIO; nothing else does, and each message is stored in the end."""
    async with place(tmp_path, monkeypatch, forking=True) as here:
        history, found = await called(here, error)
        assert of(history, h.Failed) == []
        assert judge(history).verdict == "kept"
        assert {outcome.place.partition(" ")[0] for outcome in found[:-1]} == names
        assert {" store-wal" in outcome.place for outcome in found[:-1]} == {True}
        assert {outcome.kind for outcome in found[:-1]} == {"resent"}
        assert found[-1].kind == "untouched"


@TRACED
@in_event_loop
async def test_some_cases_are_gone_through_without_forks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first, the middle and the last that change the store; they have no number of their own."""
    async with place(tmp_path, monkeypatch, forking=True) as here:
        history, found = await called(here, "ENOSPC")
        assert of(history, h.Failed) == []
        places = [event.place or "" for event in of(history, h.FaultBegan) if event.case is None]
        failed = [outcome.place for outcome in found[:-1]]
        assert places == [f"{failed[at]}, without forks" for at in (0, len(failed) // 2, len(failed) - 1)]
        assert all(bite.seen for bite in of(history, h.Bitten))


@TRACED
@in_event_loop
async def test_forks_that_are_another_server_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here one with another journal: what is found of its calls is not what its target does."""
    serves = "lambda command: server._serve(server._parser(), [*command[3:], '--rollback-journal'])"
    code = f"from harness.targets.reference import __main__ as server, forks; forks.serve_forks({serves})"
    fork = ["{python}", "-c", code]
    server = msgspec.structs.replace(CLAIM.target.server, fork=fork)
    run = msgspec.structs.replace(FORKING, target=msgspec.structs.replace(CLAIM.target, server=server))
    async with place(tmp_path, monkeypatch, forking=True) as here:
        history, _ = await called(here, "ENOSPC", run)
        (failed,) = of(history, h.Failed)
        assert failed.reason.startswith(
            "the starts by server.fork are no starts of the server: without them there is no "
        )


@TRACED
@in_event_loop
async def test_calls_of_a_recovery_can_be_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is killed when the message is written and not synced, and again in the start that follows."""
    async with place(tmp_path, monkeypatch, forking=True) as here:
        run = msgspec.structs.replace(FORKING, only="7")
        history = await here.run(syscalls.every_call_of_a_recovery, run, target=run.target)
        assert of(history, h.Failed) == []
        judgement = judge(history)
        assert judgement.verdict == "kept"
        (outcome,) = outcomes(history, judgement)
        assert (outcome.case, outcome.kind) == ("syscall/it/7", "resent")
        assert outcome.evidence.startswith("the server was killed at fdatasync store-wal, and at ")
        assert f"and at {outcome.place}, call " in outcome.evidence


@TRACED
@in_event_loop
async def test_last_start_of_a_recovery_is_not_hit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind its last call: the server answers what it was killed at."""

    async def some(system: System) -> None:
        monkeypatch.setattr(system, "cases", lambda count: [count - 1])
        await syscalls.every_call_of_a_recovery(system)

    async with place(tmp_path, monkeypatch, forking=True) as here:
        history = await here.run(some, FORKING, target=FORKING.target)
        assert of(history, h.Failed) == []
        judgement = judge(history)
        assert judgement.verdict == "kept"
        (outcome,) = outcomes(history, judgement)
        assert (outcome.place, outcome.kind, outcome.words) == (
            "behind the last call",
            "untouched",
            "not hit, stored once",
        )
        assert outcome.evidence.startswith("nothing was hit in the start after a kill at fdatasync store-wal: ")


@TRACED
@pytest.mark.parametrize(
    ("entry", "kinds"),
    [("never_syncs", {"not_durable"}), ("undoes_unfinished", {"lost"}), ("syncs_later", {"not_durable"})],
)
@in_event_loop
async def test_one_case_is_enough_for_a_server_that_is_wrong_there(
    entry: str, kinds: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of the note which is removed too late; and any, where nothing is ever synced in time."""
    described = next(each for each in ENTRIES if each.name == entry)
    async with place(tmp_path, monkeypatch, forking=True) as here:
        run = msgspec.structs.replace(FORKING, target=load(str(described.target)))

        async def schedule(system: System) -> None:
            alice = await system.sender("alice")
            await system.make_template()
            await system.renew()
            await alice.send()
            await alice.idle(downstream=True)
            made = await system.calls.dry_run(alice.send)
            at = next((call for call in addressed([made]) if call.fingerprint == "unlink beside the store"), None)
            fault = system.calls.kill_at_call(at) if at is not None else system.calls.kill_answered()
            if at is not None:
                await system.renew()
                await alice.send()
                await alice.idle(downstream=True)
                await system.server.idle()
            async with system.inject(fault) as injected:
                await injected.bitten(alice.post())
            await alice.send()

        history = await here.run(schedule, run, target=run.target)
        assert of(history, h.Failed) == []
        assert {anomaly.kind for anomaly in judge(history).broken_by} == kinds


# -- pairs -------------------------------------------------------------------------------------------------------


async def upstream_cuts(system: System) -> None:
    """Pairs of cuts whose first is upstream."""
    await pairs.cut_and_cut(system, "upstream")


@pytest.mark.parametrize(
    ("direction", "only", "stands", "said"),
    [
        (
            "upstream",
            "5+300",
            r"byte 6 of \d+, frame header, then byte 301 of \d+",
            "the connection was cut after 5 bytes upstream, no row was there, and the way back was cut after 300",
        ),
        (
            "downstream",
            "5+300",
            r"byte 6 of \d+, behind the header of the first frame, then byte 301 of \d+",
            "the connection was cut after 5 bytes downstream, its row was there, and the way back was cut after 300",
        ),
        (
            "upstream",
            "5+",
            r"byte 6 of \d+, frame header",
            "the connection was cut after 5 bytes upstream, attempt 1 of ",
        ),
        (
            "downstream",
            "5+",
            r"byte 6 of \d+, behind the header of the first frame",
            "the connection was cut after 5 bytes downstream, attempt 1 of ",
        ),
        ("downstream", "+300", r"byte 301 of \d+", "a handshake was cut after 300 bytes upstream while "),
    ],
)
@in_event_loop
async def test_pair_of_cuts_can_be_asked_for_and_so_can_each_of_them(
    direction: Direction, only: str, stands: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first in the message or in its answer, the second in the handshake that follows."""

    async def schedule(system: System) -> None:
        await pairs.cut_and_cut(system, direction)

    async with place(tmp_path, monkeypatch) as here:
        history = await here.run(schedule, msgspec.structs.replace(ALL, only=only))
        assert of(history, h.Failed) == []
        judgement = judge(history)
        assert judgement.verdict == "kept"
        (outcome,) = outcomes(history, judgement)
        assert outcome.case == f"wire/it/{only}"
        assert re.fullmatch(stands, outcome.place)
        assert outcome.evidence.startswith(said)
        assert outcome.kind == "resent"


@in_event_loop
async def test_answer_is_cut_before_its_end_and_the_message_comes_again_to_a_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are as many cuts as make a message come again, those of the acknowledgement; its row is there."""

    async def schedule(system: System) -> None:
        await pairs.cut_and_lock(system, "downstream")

    async with place(tmp_path, monkeypatch) as here:
        acknowledgement = len("431[]") + 2
        history = await here.run(schedule, msgspec.structs.replace(ALL, only=f"{acknowledgement - 2}+1"))
        assert of(history, h.Failed) == []
        judgement = judge(history)
        assert judgement.verdict == "kept"
        (outcome,) = outcomes(history, judgement)
        assert outcome.kind == "resent"
        assert outcome.evidence.startswith("its row was there under the lock, for ")
        stands = rf"byte {acknowledgement - 1} of \d+, behind the header of the first frame, then a lock of 0\.\d+ s"
        assert re.fullmatch(stands, outcome.place)
        history = await here.run(schedule, msgspec.structs.replace(ALL, only=f"{acknowledgement}+1"))
        assert of(history, h.Failed)[0].reason.startswith(f"there is no case wire/it/{acknowledgement}+1")


@pytest.mark.parametrize("direction", ["upstream", "downstream"])
@TRACED
@in_event_loop
async def test_server_is_killed_when_the_message_comes_again(
    direction: Direction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call is one by which such a message is handled: what is stored already is not written again."""

    async def schedule(system: System) -> None:
        await pairs.cut_and_kill(system, direction)

    async with place(tmp_path, monkeypatch, forking=True) as here:
        run = msgspec.structs.replace(FORKING, budget_seconds=1)
        history = await here.run(schedule, run, target=run.target)
        assert of(history, h.Failed) == []
        judgement = judge(history)
        assert judgement.verdict == "kept"
        found = outcomes(history, judgement)
        assert {outcome.kind for outcome in found} == {"resent"}
        assert not [outcome for outcome in found if "pwrite64" in outcome.place and direction == "downstream"]
        assert all(outcome.evidence.startswith("the server was killed at ") for outcome in found)


@in_event_loop
async def test_server_that_stores_twice_is_broken_by_pairs_whose_answer_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its constraint; a first cut upstream leaves no row to be doubled."""

    async def schedule(system: System) -> None:
        await pairs.cut_and_cut(system, "downstream")

    async with place(tmp_path, monkeypatch) as here:
        run = msgspec.structs.replace(ALL, only="3+100", server="without_unique")
        history = await here.run(schedule, run)
        (outcome,) = outcomes(history, judge(history))
        assert outcome.words == "duplicate"
        assert has_broken_case(here.folder)
        # What its dry runs have doubled says nothing of a case.
        history = await here.run(schedule, msgspec.structs.replace(run, only="+100"))
        assert judge(history).verdict == "broken"
        assert not has_broken_case(here.folder)
        history = await here.run(upstream_cuts, run)
        (outcome,) = outcomes(history, judge(history))
        assert outcome.kind == "resent"


@in_event_loop
async def test_pairs_are_tried_until_the_budget_is_used_and_then_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next run tries others; together they are the beginning of the space's order."""
    progress = tmp_path / "progress.json"
    run = msgspec.structs.replace(ALL, budget_seconds=0.3, progress=progress)
    async with place(tmp_path, monkeypatch) as here:
        tried: list[str] = []
        for _ in range(2):
            history = await here.run(upstream_cuts, run)
            assert of(history, h.Failed) == []
            assert judge(history).verdict == "kept"
            (swept,) = of(history, h.Swept)
            assert swept.begun == len(tried)
            tried += [event.case for event in of(history, h.FaultBegan) if event.case]
            assert swept.done == len(tried) == len(set(tried))
        expected = coverage.order("wire/it", swept.size)[: len(tried)]
        second = next(length for length in range(1, swept.size) if tried[0] == _pair(expected[0], length))
        assert tried == [_pair(number, second) for number in expected]


@in_event_loop
async def test_shares_of_pairs_have_no_case_in_common(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each goes on in its own part of the order, and says so."""
    async with place(tmp_path, monkeypatch) as here:
        tried: list[str] = []
        spaces = []
        for number in (1, 2):
            run = msgspec.structs.replace(ALL, share=(number, 2), budget_seconds=0.3, progress=tmp_path / str(number))
            history = await here.run(upstream_cuts, run)
            assert of(history, h.Failed) == []
            spaces += [event.space for event in of(history, h.Swept)]
            tried += [event.case for event in of(history, h.FaultBegan) if event.case]
        assert spaces == ["wire/it, share 1 of 2", "wire/it, share 2 of 2"]
        assert len(tried) == len(set(tried)) > 2


def _pair(number: int, length: int) -> str:
    return f"wire/it/{number // length}+{number % length}"
