"""Conformance of drivers: ours keep to the rules that their libraries can; what breaks one is told by its name."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from harness import history as h
from harness import node
from harness.clients import protocol as p
from harness.clients.conformance import RULES, Finding, check, contradiction, read
from harness.clients.kinds import KINDS
from harness.waiting import within
from tests.runs import PROJECT
from tests.systems import in_event_loop

# It begins with a driver that keeps to the rules, by the harness's own client library; each test changes a line of it.
DRIVER = """
import asyncio, json, sys, socketio

sio = socketio.AsyncClient(reconnection=False, handle_sigint=False)
counts, tries = {}, 0

def tell(event, **fields):
    print(json.dumps({"event": event, **fields}), flush=True)

async def post(command, event):
    message, offset = command["message"], command["offset"]
    tell("invoke", message=message, offset=offset)
    counts[message] = counts.get(message, 0) + 1
    number = counts[message]
    tell("attempt", message=message, attempt=number, offset=offset, connection=tries)
    await sio.call(event, (command["content"], offset))
    tell("ok", message=message, attempt=number, late=False)
    tell("settled", message=message, outcome="acknowledged")

async def main():
    global tries
    lines = asyncio.StreamReader(limit=2**24)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    event = None
    while line := await lines.readline():
        command = json.loads(line)
        if command["command"] == "connect":
            event = command["event"]
            await sio.connect(f"http://127.0.0.1:{command['port']}", transports=["websocket"])
            tries += 1
            tell("connected", connection=tries)
        elif command["command"] == "post":
            await post(command, event)
        elif command["command"] == "stop":
            break
        else:
            tell("error", reason="what is that?")
    await sio.disconnect()

asyncio.run(main())
"""
TRIED = ("connects", "acknowledged", "stop", "end-of-input", "bad-command", "wire")


async def tried(
    command: Sequence[str], folder: Path, rules: Sequence[str], policy: h.Policy = "persistent", **env: str
) -> dict[str, Finding]:
    """What became of some rules, by their names."""
    asked = [rule for rule in RULES if rule.name in rules]
    found = await check(command, folder, env=env, rules=asked, policy=policy)
    return {finding.rule: finding for finding in found}


def broken(findings: dict[str, Finding]) -> list[str]:
    """The names of those that did not hold."""
    return [name for name, finding in findings.items() if not finding.held]


WORKER = (sys.executable, "-m", "harness.clients.worker")
# What python-socketio itself is the reason of: a `call` hears of the end of its connection only by its own timeout.
STOCK_BREAKS = {"cut"}


@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize(
    ("kind", "breaks", "lacks"),
    [
        ("node", set[str](), set[str]()),
        ("python", set[str](), {"tutorial", "wire", "wire-upgrade"}),
        ("python-stock", STOCK_BREAKS, {"persistent", "retries=3", "tutorial", "new-offset", "pipelined"}),
    ],
)
@in_event_loop
async def test_our_drivers_conform(tmp_path: Path, kind: str, breaks: set[str], lacks: set[str], part: int) -> None:
    """Each keeps to every rule but those that its client library breaks, and offers all that is not named here."""
    env = {"NODE_PATH": str(node.modules())} if KINDS[kind].needs_node else {}
    command = [sys.executable if word == "{python}" else word for word in KINDS[kind].command or WORKER]
    names = [rule.name for rule in RULES][part::4]
    policies = KINDS[kind].policies
    policy: h.Policy = "persistent" if "persistent" in policies else "resend"
    findings = await tried(command, tmp_path, names, policy, **env)
    assert set(findings) == {*names, "order", "lines"}
    expected = breaks & set(names)
    # What contradicts itself is the attempt that does not end in `cut`.
    assert set(broken(findings)) == expected | ({"order"} if "cut" in expected else set()), findings
    not_offered = {name for name, finding in findings.items() if finding.lacks}
    assert not_offered == lacks & set(names), findings


@in_event_loop
async def test_a_small_driver_conforms_to_what_it_offers(tmp_path: Path) -> None:
    """A driver of fifty lines conforms; what it does not tell is said, and does not fail it."""
    program = tmp_path / "driver.py"
    program.write_text(DRIVER)
    findings = await within(
        tried([sys.executable, str(program)], tmp_path, TRIED), awaited="the rules", timeout_seconds=25.0
    )
    assert not broken(findings), findings
    assert findings["wire"].lacks
    assert "it does not tell `wire`" in findings["wire"].detail


@pytest.mark.parametrize(
    ("line", "instead", "rule"),
    [
        ('    tell("invoke", message=message, offset=offset)\n', "", "invoke"),
        ("async def main():\n", 'async def main():\n    print("ready", flush=True)\n', "lines"),
        ("            tries += 1\n", "            tries += 2\n", "connects"),
        (
            '    tell("attempt"',
            '    tell("ok", message=message, attempt=number, late=False)\n    tell("attempt"',
            "order",
        ),
        (
            "    await sio.call(",
            "    await sio.emit(event, (command['content'], offset))\n    await sio.call(",
            "acknowledged",
        ),
        ('(command["content"], offset))', '(command["content"].strip("x"), offset))', "acknowledged"),
        ('    tell("settled", message=message, outcome="acknowledged")\n', "", "acknowledged"),
        ("asyncio.run(main())", "asyncio.run(main())\nsys.exit(3)", "stop"),
        ("    await sio.disconnect()", "    await asyncio.sleep(60)", "end-of-input"),
        ('            tell("error", reason="what is that?")', "            pass", "bad-command"),
    ],
    ids=[
        *("no-invoke", "garbage", "numbers", "ok-before-attempt", "sends-twice", "text"),
        *("no-settled", "status", "stays", "no-error"),
    ],
)
@in_event_loop
async def test_a_broken_driver_is_told_by_the_rule_that_it_breaks(
    tmp_path: Path, line: str, instead: str, rule: str
) -> None:
    """One changed line each: the rule that it breaks is among those that do not hold."""
    assert DRIVER.count(line) == 1
    program = tmp_path / "driver.py"
    program.write_text(DRIVER.replace(line, instead))
    asked = {"lines": "stop", "order": "acknowledged"}.get(rule, rule)
    findings = await tried([sys.executable, str(program)], tmp_path, [asked])
    assert rule in broken(findings), findings


@in_event_loop
async def test_a_program_that_ends_at_once_is_told_so(tmp_path: Path) -> None:
    """The finding has the exit status, without a wait."""
    findings = await tried([sys.executable, "-c", "raise SystemExit(4)"], tmp_path, ["connects"])
    assert "exited with status 4 before it told `connected`" in findings["connects"].detail


def test_a_message_that_asks_for_nothing_may_fail_and_need_not_end() -> None:
    """Where no acknowledgement is asked for an attempt may stay open, and one that was dropped has its end, once."""
    lost, again = p.Fail(message="m", attempt=1, reason="away"), p.Connected(connection=2)
    assert contradiction([CONNECTED, ATTEMPT, LOST, again], asks=False) is None
    assert contradiction([CONNECTED, ATTEMPT, lost, LOST], asks=False) is None
    assert "has ended before" in (contradiction([CONNECTED, ATTEMPT, lost, lost], asks=False) or "")


@in_event_loop
async def test_a_program_that_prints_garbage_is_told_so_at_once(tmp_path: Path) -> None:
    """The first rule names what it told, and what stands on its standard error, without a wait."""
    program = tmp_path / "driver.py"
    program.write_text("import os\nos.write(2, b'oh')\nos.write(1, b'hello\\n')\ninput()\ninput()\n")
    began = time.monotonic()
    findings = await tried([sys.executable, str(program)], tmp_path, ["connects"])
    assert time.monotonic() - began < 5
    assert "it told b'hello" in findings["connects"].detail
    assert findings["connects"].seen.endswith("oh")


def conformance(folder: Path, *arguments: str) -> tuple[int, list[str]]:
    """Run the command as a user does; its exit status, and the lines that it printed."""
    command = [sys.executable, "-m", "harness", "conformance", *arguments]
    ran = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return ran.returncode, (ran.stdout + ran.stderr).splitlines()


def test_command_tells_which_rules_hold(tmp_path: Path) -> None:
    """`conformance COMMAND…` prints a line for each rule, runs the driver where the user is, and exits with 1."""
    (tmp_path / "driver.py").write_text("raise SystemExit(4)")
    status, lines = conformance(tmp_path, sys.executable, "driver.py")
    told = {line.split()[1]: line.split()[0] for line in lines[:-1] if not line.startswith(" ")}
    assert status == 1
    # No policy but `persistent` has to be known; and a program that tells nothing shows nothing.
    assert set(told) == {*(rule.name for rule in RULES), "order", "lines"}
    assert {told["connects"], told["stop"], told["order"], told["lines"]} == {"broken"}
    broken = sum(word == "broken" for word in told.values())
    assert lines[-1] == f"{len(told)} rules: 0 hold, {broken} broken, {len(told) - broken} lacking"
    assert any("exited with status 4 before it told `connected`" in line for line in lines)


def test_command_exits_with_0_when_every_rule_holds(tmp_path: Path) -> None:
    """The harness's own worker holds them all."""
    status, lines = conformance(tmp_path, "--", *WORKER)
    assert status == 0, lines
    assert lines.pop() == f"{len(RULES) + 2} rules: {len(RULES) - 1} hold, 0 broken, 3 lacking"
    assert len(lines) == len(RULES) + 2
    assert {line.split()[1] for line in lines if line.startswith("lacks")} == {"tutorial", "wire", "wire-upgrade"}
    assert all(line.startswith(("holds", "lacks")) for line in lines)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [((), "expected the command of a driver"), (("/no/such/program",), "cannot start '/no/such/program'")],
)
def test_command_without_a_driver_is_an_error(tmp_path: Path, arguments: tuple[str, ...], error: str) -> None:
    """What cannot be tried is one line, and status 3."""
    status, lines = conformance(tmp_path, *arguments)
    assert status == 3
    assert len(lines) == 1
    assert error in lines[0]


def test_lines_are_sorted_into_what_the_protocol_knows_and_what_not() -> None:
    """No JSON, no event of the protocol and no UTF-8 are told apart from what it knows."""
    told, nonsense = read([b'{"event":"connected","connection":1}\n', b"ready\n", b'{"event":"sung"}\n', b"\xff\n"])
    assert told == [p.Connected(connection=1)]
    assert len(nonsense) == 3
    assert nonsense[0].startswith("b'ready")


CONNECTED, LOST = p.Connected(connection=1), p.Disconnected(connection=1, reason="gone")
ATTEMPT = p.Attempt(message="m", attempt=1, offset="o", connection=1)
OK, LATE = p.Ok(message="m", attempt=1), p.Ok(message="m", attempt=1, late=True)
INFO = p.Info(message="m", attempt=1, reason="gone")
SETTLED = p.Settled(message="m", outcome="acknowledged")
AGAIN = p.Connected(connection=2)


@pytest.mark.parametrize(
    "told",
    [
        [CONNECTED, ATTEMPT, OK, SETTLED, LOST, AGAIN],
        [CONNECTED, ATTEMPT, LOST, INFO, LATE, AGAIN],
        [p.ConnectFailed(connection=1, reason="refused"), AGAIN],
        [p.Attempt(message="m", attempt=1, offset="o", connection=0), p.Fail(message="m", attempt=1, reason="away")],
    ],
)
def test_what_fits_together_is_no_contradiction(told: list[p.AnyTold]) -> None:
    """Late acknowledgements, failed tries and dropped emissions are in order."""
    assert contradiction(told) is None


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ([AGAIN], "this is try number 1"),
        ([CONNECTED, AGAIN], "the connection 1 is still open"),
        ([LOST], "the connection 1 is not open"),
        ([ATTEMPT], "the connection 1 is not open"),
        ([CONNECTED, OK], "this attempt has not begun"),
        ([CONNECTED, ATTEMPT, ATTEMPT], "this is attempt 2 of the message"),
        ([CONNECTED, ATTEMPT, LATE], "this attempt had not ended before"),
        ([CONNECTED, ATTEMPT, INFO, OK], "this attempt had ended before"),
        ([CONNECTED, ATTEMPT, INFO, INFO], "this attempt has ended before"),
        ([CONNECTED, ATTEMPT, OK, LATE], "this attempt was acknowledged before"),
        ([CONNECTED, ATTEMPT, LOST, AGAIN], "attempt 1 of m, on connection 1, has not ended"),
        ([CONNECTED, ATTEMPT, SETTLED], "no attempt of it was acknowledged"),
        ([CONNECTED, ATTEMPT, OK, SETTLED, SETTLED], "the message has settled before"),
        ([CONNECTED, ATTEMPT, p.Invoke(message="m", offset="o")], "an attempt of it was told before"),
    ],
)
def test_a_contradiction_is_told(told: list[p.AnyTold], why: str) -> None:
    """Each with the reason."""
    assert (contradiction(told) or "").endswith(why)
