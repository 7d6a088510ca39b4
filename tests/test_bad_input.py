"""Bad input: one clear error, exit status 3 (4 for a mistyped command line), no scenario, and nothing left behind.

Each test is a whole run of `pytest scenarios`, read as a user reads it.
"""

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.runs import PROJECT, Ran, run

SELECTED = "baseline-one-python-websocket"
REFERENCE = ["{python}", "-m", "harness.targets.reference", "--port", "{port}", "--database", "{database}"]
ROWS = "SELECT id, client_offset, content FROM messages ORDER BY id"


def python(source: str) -> list[str]:
    """A server command that runs a program of our own; its arguments are the port and the database."""
    return ["{python}", "-c", source, "{port}", "{database}"]


def described(
    folder: Path,
    *,
    command: list[str] = REFERENCE,
    server: str = "",
    event: str = "chat message",
    location: str = "{database}",
    rows: str = ROWS,
) -> str:
    """Describe a target; the path of its description."""
    path = folder / "target.toml"
    lines = (
        "schema = 1",
        'name = "bad"',
        "[server]",
        f"command = {json.dumps(command)}",
        f"env = {{ PYTHONPATH = {json.dumps(str(PROJECT / 'harness' / 'targets'))} }}",
        server,
        "[protocol]",
        f"event = {json.dumps(event)}",
        "ack_timeout_seconds = 0.3",
        "[store]",
        'kind = "sqlite"',
        f"location = {json.dumps(location)}",
        f"rows = {json.dumps(rows)}",
    )
    path.write_text("\n".join(lines))
    return str(path)


def refused(folder: Path, *arguments: str, environment: dict[str, str] | None = None) -> str:
    """Run one scenario, which must not be run: the error that is printed instead."""
    ran = run(folder, "scenarios", "-k", SELECTED, *arguments, environment=environment)
    return error(ran)


def error(ran: Ran) -> str:
    """The one error of a run in which no scenario was run."""
    assert ran.status == 3, ran.output
    assert "Traceback" not in ran.output
    assert "INTERNALERROR" not in ran.output
    assert (ran.summary["gate"], ran.summary["ran"]) == ("error", 0)
    assert sorted(path.name for path in ran.folder.iterdir() if path.name.endswith("websocket")) == []
    assert ran.output.count("error: ") == 1, ran.output
    (start,) = (number for number, line in enumerate(ran.output.splitlines()) if line.startswith("error: "))
    lines = ran.output.splitlines()[start:]
    return "\n".join(lines[: next(number for number, line in enumerate(lines) if " planned, 0 ran" in line)])


# -- the server --------------------------------------------------------------------------------------------------


def test_missing_server_command_is_named(tmp_path: Path) -> None:
    """A program that is not there is named, with the system's reason."""
    said = refused(tmp_path, "--target", described(tmp_path, command=["no-such-server", "{port}", "{database}"]))
    assert "the server of bad cannot be started: cannot start 'no-such-server': No such file or directory" in said


def test_failing_server_is_quoted_once(tmp_path: Path) -> None:
    """What a server printed before it ended is in the error, once, also when two processes run scenarios."""
    target = described(tmp_path, command=python("import sys; sys.exit('no module named chat')"))
    ran = run(tmp_path, "scenarios", "-k", "baseline-one", "-n", "2", "--target", target)
    said = error(ran)
    assert "the server of bad ended with exit status 1 before it was ready (tcp, port" in said
    assert said.endswith("\n    no module named chat")
    assert ran.output.count("no module named chat") == 1


def test_server_that_never_gets_ready_is_quoted(tmp_path: Path) -> None:
    """A server that does not listen in time is ended, and its last lines are in the error."""
    command = python("import time; print('loading the model', flush=True); time.sleep(600)")
    said = refused(tmp_path, "--target", described(tmp_path, command=command, server="ready_timeout_seconds = 1"))
    assert "the server of bad did not get ready within 1 s (tcp, port " in said
    assert said.endswith("\n    loading the model")


# Takes the port, but does not listen there: as a server does that somebody else has just started.
OCCUPIER = """
import runpy, socket, sys
_, port, database = sys.argv
taken = socket.socket()
taken.bind(("127.0.0.1", int(port)))
sys.argv = ["server", "--port", port, "--database", database]
runpy.run_module("harness.targets.reference", run_name="__main__")
"""


def test_taken_port_is_what_the_server_says_it_is(tmp_path: Path) -> None:
    """A server that finds its port taken says so itself, and its words are in the error."""
    said = refused(tmp_path, "--target", described(tmp_path, command=python(OCCUPIER)))
    assert "before it was ready (tcp, port" in said
    assert "address already in use" in said.lower()


def test_event_that_the_server_does_not_know_is_never_acknowledged(tmp_path: Path) -> None:
    """A mistyped event gets no answer: the error asks whether it is right and says where the server's log is."""
    said = refused(tmp_path, "--target", described(tmp_path, event="chat massage"))
    assert "did not acknowledge a message in" in said
    assert "is protocol.event 'chat massage' right" in said
    log = Path(said.rpartition("See ")[2])
    assert log.name == "server.log"
    assert log.exists()


FORGETFUL = """
import sys
from ledger.common import Chat
chat = Chat()
async def chat_message(_sid, content, client_offset):
    pass
_, port, database = sys.argv
sys.argv = ["server", "--port", port, "--database", database]
chat.serve(chat_message)
"""


def test_server_that_stores_nothing_is_left_to_the_scenarios(tmp_path: Path) -> None:
    """Acknowledged and not stored is no bad input: it is what scenarios are there to find, and it is broken: lost."""
    target = described(tmp_path, command=python(FORGETFUL))
    ran = run(tmp_path, "scenarios", "-k", SELECTED, "--target", target)
    assert (ran.verdicts, ran.anomalies(SELECTED), ran.status) == ({SELECTED: "broken"}, {"lost"}, 1), ran.output


# -- the store ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("{database}.other", "/store.db.other does not exist: the server has to create it before it is ready"),
        ("{database}-wal", "/store.db-wal: file is not a database"),
    ],
    ids=["missing", "not SQLite"],
)
def test_unreadable_database_is_named(location: str, expected: str, tmp_path: Path) -> None:
    """A store that cannot be read is an error that names its path and says why."""
    assert expected in refused(tmp_path, "--target", described(tmp_path, location=location))


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("SELECT id, client_offset, content FROM mesages", "no such table: mesages; the query is SELECT id, client_of"),
        ("SELEKT 1", 'near "SELEKT": syntax error; the query is SELEKT 1'),
        ("SELECT id, content AS text FROM messages", "it lacks client_offset, content and returns id, text: SELECT id"),
    ],
    ids=["no table", "no SQL", "no columns"],
)
def test_wrong_query_is_quoted(rows: str, expected: str, tmp_path: Path) -> None:
    """A query that fails, or lacks one of the three columns, is quoted with what is wrong with it."""
    assert expected in refused(tmp_path, "--target", described(tmp_path, rows=rows))


# -- the command line --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "workers"])
def test_bad_description_is_one_line(workers: tuple[str, ...], tmp_path: Path) -> None:
    """A description that is not valid is one line that names the file and the key; the report says so, too."""
    target = tmp_path / "target.toml"
    target.write_text("schema = 1\nname = 7\n")
    ran = run(tmp_path, "scenarios", "--target", str(target), *workers)
    assert ran.status == 3
    assert ran.output.splitlines() == [f"Exit: {target}: key `name`: expected a string, got a whole number"]
    assert (ran.summary["gate"], ran.summary["planned"]) == ("error", 0)
    assert "key `name`: expected a string" in ran.summary["why"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--seed", "lucky"), "argument --seed: invalid int value: 'lucky'"),
        (
            ("--reports", "{file}/reports"),
            "argument --reports: {file}/reports cannot be written: {file} is not a folder",
        ),
    ],
    ids=["seed", "reports"],
)
def test_wrong_option_is_a_usage_error(arguments: tuple[str, str], expected: str, tmp_path: Path) -> None:
    """A value that an option cannot have is pytest's usage error, before anything is started."""
    file = tmp_path / "file"
    file.touch()
    option, value = arguments
    ran = run(tmp_path, "scenarios", option, value.format(file=file), "-n", "2")
    assert ran.status == 4
    assert expected.format(file=file) in ran.output
    assert "Traceback" not in ran.output
    assert not ran.reports.exists()


def test_reports_that_cannot_be_made_are_an_error(tmp_path: Path) -> None:
    """A file in the place of the project's own `reports` folder is named in the one error; no scenario runs."""
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -p harness.plugin\n")
    (tmp_path / "reports").touch()
    ran = run(tmp_path, str(PROJECT / "scenarios"), "-k", SELECTED, "-c", "pytest.ini", cwd=tmp_path, own_reports=False)
    assert ran.status == 3, ran.output
    assert ran.output.count(f"error: cannot make the run folder {tmp_path / 'reports'}") == 1
    assert "Traceback" not in ran.output


def test_folder_in_the_place_of_latest_is_an_error(tmp_path: Path) -> None:
    """What cannot be replaced by `latest` is left as it is, and named; the report is there all the same."""
    mine = tmp_path / "mine" / "latest"
    mine.mkdir(parents=True)
    ran = run(tmp_path, "scenarios", "-k", SELECTED, "--reports", str(mine.parent))
    assert ran.status == 3, ran.output
    assert f"error: cannot write {mine}: Is a directory" in ran.output
    assert "Traceback" not in ran.output
    (folder,) = (path for path in mine.parent.iterdir() if path != mine)
    assert f"report: {folder / 'index.html'}" in ran.output
    assert (folder / "index.html").exists()


# -- Toxiproxy ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def web_server() -> Iterator[str]:
    """An HTTP server that is no Toxiproxy, and its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:1", "http://127.0.0.1:1 is dead, it does not answer: Connection refused"),
        ("toxiproxy", "'toxiproxy' is no address of a Toxiproxy server; it should read http://HOST:PORT"),
    ],
    ids=["nobody", "garbage"],
)
def test_wrong_toxiproxy_url_is_named(url: str, expected: str, tmp_path: Path) -> None:
    """A `--toxiproxy-url` that leads nowhere is an error; no other Toxiproxy is taken instead."""
    assert expected in refused(tmp_path, "--toxiproxy-url", url)


def test_server_that_is_no_toxiproxy_is_named(tmp_path: Path) -> None:
    """Something else behind `--toxiproxy-url` is an error that names it and quotes its answer."""
    with web_server() as url:
        assert f"{url} answers HTTP 404" in refused(tmp_path, "--toxiproxy-url", url)


def test_machine_without_toxiproxy_is_told_what_helps(tmp_path: Path) -> None:
    """Where no Toxiproxy can be had the error lists what was tried, why each failed, and what helps."""
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    closed = {"PATH": str(nothing), "XDG_CACHE_HOME": str(nothing), "https_proxy": "http://127.0.0.1:9", "no_proxy": ""}
    said = refused(tmp_path, environment={**closed, "HTTPS_PROXY": closed["https_proxy"], "NO_PROXY": ""})
    for tried in ("PATH: no `toxiproxy-server` there", "cache: ", "release archive: ", "go install: no `go` on PATH"):
        assert f"\n  {tried}" in said
    assert "Any one of these helps:" in said
    assert "--toxiproxy-url" in said
