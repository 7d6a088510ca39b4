"""The judge is judged: broken servers are caught with their own anomaly, correct and modest ones are not accused.

Each test is a whole run of `pytest scenarios` on a target.
"""

import re
from pathlib import Path

import pytest

from harness import history as h
from harness.targets.ledger import ENTRIES, Entry
from tests.runs import PROJECT, Ran, run

TARGETS = PROJECT / "harness" / "targets"
# What the correct servers are tried with: quick, one of each family that asks something different of a server.
TRIED = (
    "baseline-five-python-websocket",
    "cut-middle-python-polling",
    "cut-middle-python-websocket",
    "ack-lost-one-python-websocket",
    "kill-mid-emit-python-websocket",
    "crash-after-commit-python-websocket",
)


def on(folder: Path, target: Path | str, *cases: str) -> Ran:
    """Run these cases on a target."""
    return run(folder, "scenarios", "--target", str(target), "-k", " or ".join(cases))


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: str(entry.name))
def test_broken_server_is_caught_with_its_own_anomaly(entry: Entry, tmp_path: Path) -> None:
    """A broken server breaks the scenario that the ledger names, with the anomaly that it names and no other."""
    assert entry.case.startswith(f"{entry.family}-")
    ran = on(tmp_path, f"ledger/{entry.name}", entry.case)
    assert (ran.verdicts, ran.anomalies(entry.case), ran.status) == ({entry.case: "broken"}, {entry.anomaly}, 1), (
        ran.output
    )
    assert re.search(f"first anomaly: {entry.anomaly}[ :]", ran.output)  # a crash is no message's


@pytest.mark.parametrize("name", ["on_conflict", "no_echo", "ack_payload", "gaps"])
def test_correct_server_is_never_accused(name: str, tmp_path: Path) -> None:
    """A server that is right in another way than the reference server keeps every scenario, controls and nulls too."""
    ran = on(tmp_path, f"correct/{name}", *TRIED)
    assert (ran.verdicts, ran.status) == (dict.fromkeys(TRIED, "kept"), 0), ran.output
    assert {c["verdict"] for s in ran.scenarios.values() for c in s["controls"]} == {"bites"}
    assert {c["null"] for s in ran.scenarios.values() for c in s["controls"]} == {"clean"}


# -- targets that claim less, or resist more ---------------------------------------------------------------------

BASELINE, PIPELINED = "baseline-one-python-websocket", "baseline-pipelined-python-websocket"
ACK_LOST, CUT, KILL = (
    "ack-lost-one-python-websocket",
    "cut-middle-python-websocket",
    "kill-mid-emit-python-websocket",
)
# A server with a way of its own to store a message.
VARIANT = """
import html, sqlite3, sys
from ledger.common import SCHEMA, Chat, insert

def escapes(database, content, client_offset):
    insert(database, html.escape(content.strip()), client_offset)

def by_content(database, content, client_offset):
    if not database.execute("SELECT 1 FROM messages WHERE content = ?", (content,)).fetchone():
        insert(database, content, client_offset)

def forgets(database, content, client_offset):
    if not database.execute("DELETE FROM messages WHERE content = ?", (content,)).rowcount:
        insert(database, content, client_offset)

store = globals()[sys.argv.pop(1)]
chat = Chat(schema=SCHEMA)

async def chat_message(_sid, content, client_offset):
    try:
        await chat.run(store, content, client_offset)
    except sqlite3.IntegrityError:
        pass
    except sqlite3.Error:
        return chat.sio.not_handled
    await chat.publish()

chat.serve(chat_message)
"""
UNPROTECTED = '["{python}", "-m", "ledger.no_unique_constraint.server", "--port", "{port}", "--database", "{database}"]'
REFERENCE = '["{python}", "-m", "harness.targets.reference", "--port", "{port}", "--database", "{database}"]'


def variant(folder: Path, way: str) -> str:
    """The command of a server that stores messages in its own way."""
    path = folder / "variant.py"
    path.write_text(VARIANT)
    return f'["{{python}}", "{path}", "{way}", "--port", "{{port}}", "--database", "{{database}}"]'


def described(folder: Path, command: str, *claims: str, without_unique: str | None = None) -> Path:
    """Describe a target."""
    path = folder / "target.toml"
    lines = (
        "schema = 1",
        'name = "modest"',
        "[server]",
        f"command = {command}",
        f'cwd = "{TARGETS}"',
        f'env = {{ PYTHONPATH = "{TARGETS}" }}',
        "[protocol]",
        'event = "chat message"',
        'broadcast = "chat message"',
        "[store]",
        'kind = "sqlite"',
        'location = "{database}"',
        'rows = "SELECT id, client_offset, content FROM messages ORDER BY id"',
        "[claims]",
        *claims,
        "[controls]",
        *([f"without_unique = {without_unique}"] if without_unique else []),
    )
    path.write_text("\n".join(lines))
    return path


def test_at_least_once_target_may_store_twice(tmp_path: Path) -> None:
    """A server that only promises at-least-once, in no order, keeps cuts and kills, and is not asked for the rest."""
    target = described(tmp_path, UNPROTECTED, 'guarantee = "at-least-once"', 'order = "none"')
    ran = on(tmp_path, target, PIPELINED, ACK_LOST, CUT, KILL)
    assert (ran.verdicts, ran.status) == ({CUT: "kept", KILL: "kept"}, 0), ran.output
    assert "'duplicate' does not break 'at-least-once'" in ran.not_offered[ACK_LOST].replace("a message that is ", "")
    assert "'none'" in ran.not_offered[PIPELINED]


def test_at_most_once_target_may_lose(tmp_path: Path) -> None:
    """The senders of an at-most-once target emit once; it is asked for what can store twice, and for nothing else."""
    target = described(tmp_path, REFERENCE, 'guarantee = "at-most-once"', 'order = "sequential"')
    ran = on(tmp_path, target, PIPELINED, BASELINE, ACK_LOST, CUT)
    assert (ran.verdicts, ran.status) == ({BASELINE: "kept", ACK_LOST: "kept"}, 0), ran.output
    assert set(ran.not_offered) == {PIPELINED, CUT}
    policies = {
        name: {event.policy for event in history if isinstance(event, h.Invoke)}
        for name, history in ran.histories(ACK_LOST).items()
    }
    assert policies == {"claim": {"once"}, "control-new-offset": {"new-offset"}, "null-new-offset": {"new-offset"}}


def test_target_that_escapes_is_sent_plain_contents(tmp_path: Path) -> None:
    """A server that trims and escapes what it stores is not accused of it where it claims plain contents only."""
    ran = on(tmp_path, described(tmp_path, variant(tmp_path, "escapes"), 'content = "plain"'), BASELINE)
    assert (ran.verdicts, ran.status) == ({BASELINE: "kept"}, 0), ran.output
    contents = [e.content for e in ran.histories(BASELINE)["claim"] if isinstance(e, h.Invoke)]
    assert contents
    assert all(re.fullmatch(r"[\w -]{1,100}", content, re.ASCII) for content in contents)


def test_target_that_escapes_corrupts_any_other_contents(tmp_path: Path) -> None:
    """The same server without that word in its claims is broken: corrupted."""
    ran = on(tmp_path, described(tmp_path, variant(tmp_path, "escapes")), BASELINE)
    assert (ran.verdicts, ran.anomalies(BASELINE), ran.status) == ({BASELINE: "broken"}, {"corrupted"}, 1), ran.output


def test_target_that_resists_a_control_is_not_accused(tmp_path: Path) -> None:
    """A server that knows a resend by its content resists `new-offset`: not offered, and the gate rests on the rest."""
    ran = on(tmp_path, described(tmp_path, variant(tmp_path, "by_content")), BASELINE, ACK_LOST)
    assert (ran.verdicts, ran.status) == ({BASELINE: "kept"}, 0), ran.output
    assert "resists every control" in ran.not_offered[ACK_LOST]
    assert ran.summary["planned"] == ran.summary["ran"] == 1


def test_item_with_a_silent_control_only_is_unproven(tmp_path: Path) -> None:
    """A control that shows something else than it must is silent; with no other that bites, nothing is proven."""
    command, silent = variant(tmp_path, "by_content"), variant(tmp_path, "forgets")
    ran = on(tmp_path, described(tmp_path, command, without_unique=silent), ACK_LOST)
    assert (ran.verdicts, ran.status) == ({ACK_LOST: "unproven"}, 10), ran.output
    assert ran.controls(ACK_LOST) == {"new-offset": "not offered", "without_unique": "silent"}
    assert "no control bites: without_unique" in ran.output


def test_item_with_one_control_that_bites_is_kept(tmp_path: Path) -> None:
    """One control that bites is enough; the silent one beside it is in the report."""
    ran = on(tmp_path, described(tmp_path, REFERENCE, without_unique=variant(tmp_path, "forgets")), ACK_LOST)
    assert (ran.verdicts, ran.status) == ({ACK_LOST: "kept"}, 0), ran.output
    assert ran.controls(ACK_LOST) == {"new-offset": "bites", "without_unique": "silent"}
