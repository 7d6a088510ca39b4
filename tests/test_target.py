"""Target descriptions: what a short one means, and what is said about a bad one."""

import re
import sys
import tomllib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import target as t
from harness.errors import TargetError
from tests.standins import image_target

SHORTEST = """
schema = 1
name = "mine"
[server]
command = ["node", "server.js", "{port}"]
[protocol]
event = "chat message"
[store]
kind = "sqlite"
location = "{database}"
rows = "SELECT id, client_offset, content FROM messages ORDER BY id"
"""

IMAGE = image_target("mine", "chat:1")

FULL = """
schema = 1
name = "full-1.0_x"
[server]
command = ["{python}", "server.py", "--port", "{port}", "--database", "{database}"]
cwd = "../server"
ready = "http:/health"
fork = ["{python}", "server.py", "--fork"]
env = { LEVEL = "debug", WHERE = "{database}" }
ready_timeout_seconds = 30
stop_timeout_seconds = 0.5
[container]
image = "chat:1"
command = ["node", "server.js", "{port}", "{database}"]
port = 3000
environment = { DATABASE = "{folder}/chat.db" }
pass_environment = ["TOKEN"]
volumes = { "/data" = "{folder}", "/etc/chat" = "settings" }
[protocol]
event = "say"
broadcast = "said"
namespace = "/chat"
path = "/io"
ack_timeout_seconds = 2.5
[store]
kind = "sqlite"
location = "{database}"
rows = "SELECT 1"
[claims]
guarantee = "at-least-once"
order = "sender"
receivers = "at-least-once"
replay = true
content = "plain"
recovery_seconds = 1.5
[client]
command = ["node", "client.js"]

[controls]
without_unique = ["{python}", "server.py", "{port}", "{database}", "--without-unique"]
without_acknowledgement = ["{python}", "server.py", "{port}", "{database}", "--mute"]
without_recovery = ["{python}", "server.py", "{port}", "{database}", "--no-recovery"]
[crash_points]
after_commit = { CRASH = "after-commit:{message}" }
before_commit = { CRASH = "before-commit:{message}", LOUD = "1" }
[delay_points]
before_insert = { DELAY = "{message}:{milliseconds}" }
[error_points]
after_insert = { FAIL = "{message}" }
"""


def write(folder: Path, text: str, name: str = "target.toml") -> Path:
    """Write a description."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def changed(*changes: tuple[str, str], text: str = SHORTEST) -> str:
    """The shortest description with some of its text replaced."""
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def with_key(table: str, line: str, *, text: str = SHORTEST) -> str:
    """The shortest description with a line more, in a table that it has or gets; at the top without a table."""
    if not table:
        return f"{line}\n{text}"
    if f"[{table}]\n" in text:
        return text.replace(f"[{table}]\n", f"[{table}]\n{line}\n")
    return f"{text}[{table}]\n{line}\n"


def refused(folder: Path, text: str) -> str:
    """What is said about a bad description, after the name of its file."""
    path = write(folder, text)
    with pytest.raises(TargetError) as caught:
        t.load(str(path))
    said = str(caught.value)
    assert said.startswith(f"{path}")
    return said.removeprefix(f"{path}").removeprefix(": ")


# -- what a description means ------------------------------------------------------------------------------------


def test_shortest_description_has_the_documented_defaults(tmp_path: Path) -> None:
    """A description of only what is required means the defaults that the format documents."""
    path = write(tmp_path, SHORTEST)
    assert t.load(str(path)) == t.Target(
        schema=1,
        name="mine",
        server=t.Server(
            command=["node", "server.js", "{port}"],
            cwd=".",
            ready="tcp",
            env={},
            ready_timeout_seconds=10,
            stop_timeout_seconds=5,
        ),
        protocol=t.Protocol(
            event="chat message", broadcast=None, namespace="/", path="/socket.io", ack_timeout_seconds=1
        ),
        store=t.Store(
            kind="sqlite",
            location="{database}",
            rows="SELECT id, client_offset, content FROM messages ORDER BY id",
        ),
        claims=t.Claims(guarantee="exactly-once", order="sequential", receivers="none", replay=False, content="any"),
        controls=t.Controls(without_unique=None),
        crash_points={},
        delay_points={},
        error_points={},
        path=path,
    )


def test_every_key_is_read(tmp_path: Path) -> None:
    """A description that sets every key is read as it stands."""
    read = t.load(str(write(tmp_path, FULL)))
    assert {**msgspec.to_builtins(read, enc_hook=str), "path": None} == {**tomllib.loads(FULL), "path": None}


def test_relative_folder_is_relative_to_the_file(tmp_path: Path) -> None:
    """The server runs where its description says, seen from the description and not from where pytest runs."""
    folder = tmp_path / "targets"
    folder.mkdir()
    assert t.load(str(write(folder, FULL))).folder == tmp_path / "server"
    assert t.load(str(write(folder, SHORTEST))).folder == folder


def test_command_is_that_of_the_server_or_of_a_control(tmp_path: Path) -> None:
    """A control has the command that the description gives it."""
    read = t.load(str(write(tmp_path, FULL)))
    assert read.command()[-1] == "{database}"
    assert read.command("without_unique")[-1] == "--without-unique"
    assert read.command("without_acknowledgement")[-1] == "--mute"
    assert read.command("without_recovery")[-1] == "--no-recovery"


def test_placeholders_are_filled_wherever_they_stand() -> None:
    """Python, port and database take their places, several in one text too, and other braces stay."""
    filled = t.fill("{python} {port}:{port} file:{database}?x={message}{}", port=3000, database=Path("/tmp/a b.db"))  # noqa: S108
    assert filled == f"{sys.executable} 3000:3000 file:/tmp/a b.db?x={{message}}{{}}"


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        pytest.param([], "command and location", id="command and location"),
        pytest.param(
            [
                ('"{port}"]', '"--port={port}"]\nenv = { DB = "sqlite:{database}" }'),
                ('"{database}"\nrows', '"{database}/x.db"\nrows'),
            ],
            "env",
            id="database in env",
        ),
        pytest.param([(', "{port}"]', ']\nenv = { PORT = "{port}" }')], "env", id="port in env"),
        pytest.param(
            [('"{port}"]', '"{port}", "{database}/x.db"]'), ('"{database}"\nrows', '"file:{database}/x.db"\nrows')],
            "inside",
            id="inside other text",
        ),
    ],
)
def test_placeholder_may_stand_in_any_text_of_a_run(tmp_path: Path, changes: list[tuple[str, str]], where: str) -> None:
    """A description is complete when port and database are in the command, in the environment or in the location."""
    assert t.load(str(write(tmp_path, changed(*changes)))).name == "mine", where


def test_store_has_to_be_the_runs_own(tmp_path: Path) -> None:
    """A fixed location would have the harness read and lock a file of the user's."""
    path = write(tmp_path, changed(('"{port}"]', '"{port}", "{database}"]'), ('"{database}"\nrows', '"x.db"\nrows')))
    with pytest.raises(
        TargetError, match=r"key `store.location`: expected a path with `\{database\}` or `\{folder\}`, got 'x.db'"
    ):
        t.load(str(path))


# -- finding a description ---------------------------------------------------------------------------------------


def test_description_is_found_by_its_path_or_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file under any name, and a folder with a `target.toml`, are found by absolute and by relative paths."""
    write(tmp_path, SHORTEST)
    other = write(tmp_path, SHORTEST, "other.toml")
    monkeypatch.chdir(tmp_path)
    assert t.load(str(tmp_path)).path == tmp_path / "target.toml"
    assert t.load(".").path == tmp_path / "target.toml"
    assert t.load(str(other)).path == t.load("other.toml").path == other


def test_shipped_target_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is no path is that of a target that ships with the harness."""
    for name in ("shipped", "nested/deep"):
        (tmp_path / "targets" / name).mkdir(parents=True)
        write(tmp_path / "targets" / name, SHORTEST)
    monkeypatch.setattr(t, "SHIPPED", tmp_path / "targets")
    assert t.load("shipped").path == tmp_path / "targets" / "shipped" / "target.toml"
    assert t.load("nested/deep").path == tmp_path / "targets" / "nested" / "deep" / "target.toml"


def test_reference_target_ships_and_is_valid() -> None:
    """The default target is there, with every control and crash point that the format knows."""
    reference = t.load("reference")
    assert (reference.name, reference.path) == ("reference", t.SHIPPED / "reference" / "target.toml")
    assert reference.claims == t.Claims(order="total", receivers="exactly-once", replay=True)
    assert None not in (reference.controls.without_unique, reference.controls.without_acknowledgement)
    assert "after_commit" in reference.crash_points


@pytest.mark.parametrize("name", ["missing", "missing/target.toml", "", "x" * 5000, "nul\0byte", "/dev/null"])
def test_target_that_does_not_exist_is_an_error_with_the_names(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What names no description is one error that says what can be given and which targets ship."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TargetError, match=r"no target description at .*name of a shipped target \(.*reference.*\)"):
        t.load(name)


def test_folder_without_a_description_is_an_error(tmp_path: Path) -> None:
    """A folder is not a description."""
    with pytest.raises(TargetError, match=rf"no target description at {re.escape(str(tmp_path))}:"):
        t.load(str(tmp_path))


# -- what is said about a bad one --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "schema = ",
        "schema = 1\nschema = 1",
        "[server]\n[server]",
        '[server.env]\nA = "1"\nA = "2"',
        "x = 1\x00",
        "x = 2024-02-30",
        "x = " + "9" * 5000,
        "x = " + "[" * 5000,
        "\ufeffschema = 1",
    ],
    ids=lambda text: repr(text[:20]),
)
def test_file_that_is_no_toml_is_an_error(tmp_path: Path, text: str) -> None:
    """A file that is not TOML, duplicate keys among it, is an error that names it."""
    assert refused(tmp_path, text).startswith(" is not valid TOML: ")


def test_file_that_is_no_text_is_an_error(tmp_path: Path) -> None:
    """A file that is not UTF-8 is an error that names it."""
    path = tmp_path / "target.toml"
    path.write_bytes(b'name = "\xff"')
    with pytest.raises(TargetError, match=rf"cannot read the target description {re.escape(str(path))}: .*utf-8"):
        t.load(str(path))


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("schema = 1", "schema"),
        ('name = "mine"', "name"),
        ('event = "chat message"', "protocol.event"),
        ('kind = "sqlite"', "store.kind"),
        ('location = "{database}"', "store.location"),
        ('rows = "SELECT id, client_offset, content FROM messages ORDER BY id"', "store.rows"),
    ],
)
def test_missing_key_is_named(tmp_path: Path, line: str, key: str) -> None:
    """A description without a required key is told which."""
    assert refused(tmp_path, changed((line, ""))) == f"missing key `{key}`"


@pytest.mark.parametrize("more", ["", "cwd = '.'"])
def test_server_is_a_command_or_an_image(tmp_path: Path, more: str) -> None:
    """A description without either is told so, also where it has no table for a server at all."""
    command = ('command = ["node", "server.js", "{port}"]', more)
    said = "missing key `server.command`: the program that is the server, or else an image of it in [container]"
    assert refused(tmp_path, changed(command)) == said
    assert refused(tmp_path, changed(command, ("[server]\n", "" if not more else "[server]\n"))) == said
    assert t.load(str(write(tmp_path, IMAGE))).server == t.Server()


@pytest.mark.parametrize("table", ["protocol", "store"])
def test_missing_table_is_named(tmp_path: Path, table: str) -> None:
    """A description without a required table is told which."""
    text = re.sub(rf"\[{table}\]\n[^\[]*(\[\"[^\[]*)?", "", SHORTEST)
    assert f"[{table}]" not in text
    assert refused(tmp_path, text) == f"missing key `{table}`"


@pytest.mark.parametrize(
    ("table", "known"),
    [
        (
            "",
            "`claims`, `client`, `container`, `controls`, `crash_points`, `delay_points`, `error_points`, `name`, "
            "`protocol`, `schema`, `server`, `store`",
        ),
        ("server", "`command`, `cwd`, `env`, `fork`, `ready`, `ready_timeout_seconds`, `stop_timeout_seconds`"),
        ("container", "`command`, `environment`, `image`, `pass_environment`, `port`, `volumes`"),
        ("protocol", "`ack_timeout_seconds`, `broadcast`, `event`, `namespace`, `path`"),
        ("store", "`kind`, `location`, `rows`"),
        ("claims", "`content`, `guarantee`, `order`, `receivers`, `recovery_seconds`, `replay`"),
        ("controls", "`without_acknowledgement`, `without_recovery`, `without_unique`"),
    ],
)
def test_unknown_key_is_named_with_the_known_ones(tmp_path: Path, table: str, known: str) -> None:
    """A key that the format does not know is an error at every level, with those that it knows there."""
    said = refused(tmp_path, with_key(table, "surprise = 1"))
    assert said == f"unknown key `{table + '.' if table else ''}surprise`; known keys are {known}"


def test_path_is_no_key(tmp_path: Path) -> None:
    """Where the description lies cannot be said in it."""
    assert refused(tmp_path, with_key("", 'path = "x"')).startswith("unknown key `path`; known keys are `claims`,")


WRONG_TYPES = {
    # key: (wrong value in TOML, what was expected, what it is)
    "schema": [('"1"', "1", "a string"), ("2", "1", "2"), ("true", "1", "true or false"), ("1.0", "1", "a number")],
    "name": [("1", "a string", "a whole number"), ("1979-05-27", "a string", "a date")],
    "server": [("1", "a table", "a whole number"), ('["x"]', "a table", "a list")],
    "server.command": [('"node"', "a list", "a string"), ("{}", "a list", "a table")],
    "server.command[1]": [],
    "server.cwd": [("1", "a string", "a whole number")],
    "server.ready": [("true", "a string", "true or false")],
    "server.env": [('"A=1"', "a table", "a string"), ('["A"]', "a table", "a list")],
    "server.ready_timeout_seconds": [('"10"', "a number", "a string"), ("true", "a number", "true or false")],
    "server.stop_timeout_seconds": [("07:32:00", "a number", "a time"), ("[]", "a number", "a list")],
    "container": [("1", "a table", "a whole number"), ('["x"]', "a table", "a list")],
    "container.image": [("1", "a string", "a whole number"), ("[]", "a string", "a list")],
    "container.command": [('"node"', "a list", "a string"), ("{}", "a list", "a table")],
    "container.port": [('"3000"', "a whole number", "a string"), ("1.5", "a whole number", "a number")],
    "container.environment": [('"A=1"', "a table", "a string"), ('["A"]', "a table", "a list")],
    "container.pass_environment": [('"A"', "a list", "a string"), ('{ A = "1" }', "a list", "a table")],
    "container.volumes": [('"/data"', "a table", "a string"), ('["/data"]', "a table", "a list")],
    "protocol": [("true", "a table", "true or false")],
    "protocol.event": [("1.5", "a string", "a number"), ("1979-05-27T07:32:00Z", "a string", "a date and time")],
    "protocol.broadcast": [("false", "a string", "true or false")],
    "protocol.namespace": [("[]", "a string", "a list")],
    "protocol.path": [("{}", "a string", "a table")],
    "protocol.ack_timeout_seconds": [('"1"', "a number", "a string")],
    "store": [("[]", "a table", "a list")],
    "store.kind": [("1", "'sqlite'", "a whole number"), ('"mysql"', "'sqlite'", "'mysql'")],
    "store.location": [("1", "a string", "a whole number")],
    "store.rows": [('["SELECT"]', "a string", "a list")],
    "claims": [('"exactly-once"', "a table", "a string")],
    "claims.guarantee": [
        ('"once"', "one of 'at-most-once', 'at-least-once', 'exactly-once'", "'once'"),
        ("1", "one of 'at-most-once', 'at-least-once', 'exactly-once'", "a whole number"),
    ],
    "claims.order": [('"fifo"', "one of 'total', 'sender', 'sequential', 'none'", "'fifo'")],
    "claims.receivers": [('"all"', "one of 'exactly-once', 'at-least-once', 'none'", "'all'")],
    "claims.replay": [('"true"', "true or false", "a string"), ("1", "true or false", "a whole number")],
    "claims.recovery_seconds": [('"1"', "a number", "a string"), ("true", "a number", "true or false")],
    "claims.content": [('"ascii"', "one of 'any', 'plain'", "'ascii'")],
    "controls": [("[]", "a table", "a list")],
    "controls.without_unique": [('"x"', "a list", "a string"), ("true", "a list", "true or false")],
    "controls.without_recovery": [('"x"', "a list", "a string"), ("{}", "a list", "a table")],
    "controls.without_acknowledgement": [('"x"', "a list", "a string"), ("{}", "a list", "a table")],
    "delay_points": [('["after_commit"]', "a table", "a list")],
    "error_points": [('["after_commit"]', "a table", "a list")],
    "crash_points": [('["after_commit"]', "a table", "a list")],
}


@pytest.mark.parametrize(
    ("key", "value", "expected", "got"),
    [(key, *wrong) for key, wrongs in WRONG_TYPES.items() for wrong in wrongs],
)
def test_wrong_type_is_named_with_what_was_expected(
    tmp_path: Path, key: str, value: str, expected: str, got: str
) -> None:
    """A value of the wrong type, or none of the possible ones, is an error with the key and what was expected."""
    *tables, name = key.split(".")
    table = "".join(tables)
    text = re.sub(rf"(?m)^{name} = .*\n", "", SHORTEST) if table or name in ("schema", "name") else SHORTEST
    if not table and f"[{name}]" in text:
        text = re.sub(rf"\[{name}\]\n[^\[]*(\[\"[^\[]*)?", "", text)
    said = refused(tmp_path, with_key(table, f"{name} = {value}", text=text))
    assert said == f"key `{key}`: expected {expected}, got {got}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (changed(('"server.js"', "3")), "key `server.command[1]`: expected a string, got a whole number"),
        (with_key("server.env", 'A = "1"\nB = 2'), "key `server.env.B`: expected a string, got a whole number"),
        (with_key("server.env", "A = { B = 1 }"), "key `server.env.A`: expected a string, got a table"),
        (with_key("controls", 'without_unique = ["x", true]'), "`controls.without_unique[1]`: expected a string, got"),
        (
            with_key("crash_points", 'first = { A = "1" }\nsecond = "x"'),
            "key `crash_points.second`: expected a table, got a string",
        ),
        (
            with_key("crash_points", 'first = { A = "1" }\nsecond = { B = "2", C = 3 }'),
            "key `crash_points.second.C`: expected a string, got a whole number",
        ),
        (
            with_key("crash_points", "first = { A = 1 }\nsecond = 2"),
            "key `crash_points.first.A`: expected a string, got a whole number",
        ),
        (
            with_key("crash_points", 'first = { A = { B = "x" } }'),
            "key `crash_points.first.A`: expected a string, got a table",
        ),
    ],
)
def test_wrong_type_inside_a_value_is_named(tmp_path: Path, text: str, said: str) -> None:
    """A wrong element of a list, and a wrong entry of a table of the user's own names, are named themselves."""
    assert said in refused(tmp_path, text)


@pytest.mark.parametrize(
    "key", ["server.ready_timeout_seconds", "server.stop_timeout_seconds", "claims.recovery_seconds"]
)
@pytest.mark.parametrize("seconds", ["0", "0.0", "-0.0", "-1", "nan", "-nan", "inf", "-inf", "601", "1e300"])
def test_timeout_that_is_no_span_of_time_is_refused(tmp_path: Path, key: str, seconds: str) -> None:
    """A timeout is above zero and not longer than ten minutes; what is no number is none either."""
    table, name = key.split(".")
    said = refused(tmp_path, with_key(table, f"{name} = {seconds}"))
    assert said == f"key `{key}`: expected seconds above 0 and up to 600, got {float(seconds):g}"


def test_timeout_of_the_acknowledgement_is_checked_too(tmp_path: Path) -> None:
    """The ack timeout is a span of time like the others, and the longest one is allowed."""
    text = with_key("protocol", "ack_timeout_seconds = -1")
    assert refused(tmp_path, text).startswith("key `protocol.ack_timeout_seconds`: expected seconds above 0")
    longest = t.load(str(write(tmp_path, with_key("protocol", "ack_timeout_seconds = 600"))))
    assert longest.protocol.ack_timeout_seconds == 600


@pytest.mark.parametrize("seconds", [600, 0.001, 2.5])
def test_recovery_is_claimed_within_a_span_of_time_or_not_at_all(tmp_path: Path, seconds: float) -> None:
    """Who claims to recover says within which time, up to the longest one; who says nothing claims nothing."""
    read = t.load(str(write(tmp_path, with_key("claims", f"recovery_seconds = {seconds}"))))
    assert read.claims.recovery_seconds == seconds
    assert t.load(str(write(tmp_path, SHORTEST))).claims.recovery_seconds is None


@pytest.mark.parametrize("control", ["without_unique", "without_acknowledgement", "without_recovery"])
def test_control_is_a_command_that_is_complete_itself(tmp_path: Path, control: str) -> None:
    """A control of the target's own has its own command, which needs a program and the placeholders of each run."""
    read = t.load(str(write(tmp_path, with_key("controls", f'{control} = ["node", "loose.js", "{{port}}"]'))))
    assert read.command(control) == ["node", "loose.js", "{port}"]
    said = refused(tmp_path, with_key("controls", f"{control} = []"))
    assert said == f"key `controls.{control}`: expected a program and its arguments, got []"
    said = refused(tmp_path, with_key("controls", f'{control} = ["node", "loose.js"]'))
    assert said.startswith(f"`{{port}}` is used nowhere: put it in controls.{control}")


def test_number_too_large_for_a_float_is_refused(tmp_path: Path) -> None:
    """A timeout of four hundred digits is refused like any other that is too long."""
    said = refused(tmp_path, with_key("server", f"stop_timeout_seconds = {'9' * 400}"))
    assert said.startswith("key `server.stop_timeout_seconds`: ")


@pytest.mark.parametrize("command", ['[""]', '["", "{port}"]'])
def test_command_without_a_program_is_refused(tmp_path: Path, command: str) -> None:
    """A command names a program, that of a control too."""
    said = refused(tmp_path, changed(('["node", "server.js", "{port}"]', command)))
    assert said.startswith("key `server.command`: expected a program and its arguments, got [")
    said = refused(tmp_path, with_key("controls", f"without_unique = {command}"))
    assert said.startswith("key `controls.without_unique`: expected a program and its arguments, got [")


def test_control_without_a_command_is_refused(tmp_path: Path) -> None:
    """Also that of an image: it would be the server itself."""
    said = refused(tmp_path, with_key("container", 'command = [""]', text=IMAGE))
    assert said == "key `container.command`: expected a program and its arguments, got ['']"
    for text in (SHORTEST, IMAGE):
        said = refused(tmp_path, with_key("controls", "without_unique = []", text=text))
        assert said == "key `controls.without_unique`: expected a program and its arguments, got []"


@pytest.mark.parametrize("ready", ["", "TCP", "tcp:", "http", "http:", "http:health", "log", "log:", "udp"])
def test_unknown_readiness_is_refused(tmp_path: Path, ready: str) -> None:
    """Readiness is a port, a path or a pattern in the log, and nothing else."""
    said = refused(tmp_path, with_key("server", f'ready = "{ready}"'))
    assert said == (f'key `server.ready`: expected "tcp", "http:/path" or "log:regular expression", got {ready!r}')


@pytest.mark.parametrize("ready", ["tcp", "http:/", "http:/a:b", "log:.", "log:listening on: \\\\d+"])
def test_known_readiness_is_accepted(tmp_path: Path, ready: str) -> None:
    """Each of the three ways to be ready is accepted, with colons in it too."""
    assert t.load(str(write(tmp_path, with_key("server", f'ready = "{ready}"'))))


def test_pattern_that_is_none_is_refused(tmp_path: Path) -> None:
    """A regular expression that cannot be compiled is refused with the reason."""
    said = refused(tmp_path, with_key("server", 'ready = "log:(unclosed"'))
    assert said.startswith("key `server.ready`: '(unclosed' is not a regular expression: missing )")


@pytest.mark.parametrize("name", ["", "-x", ".x", "a b", "a/b", "../x", "ä", "a\\n"])
def test_name_that_could_leave_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    """A target's name is made of letters, digits, hyphens, underscores and dots."""
    said = refused(tmp_path, changed(('name = "mine"', f'name = "{name}"')))
    assert said.startswith("key `name`: expected letters, digits, `-`, `_` and `.`, got ")


@pytest.mark.parametrize("event", ["", "connect", "disconnect", "connect_error", "disconnecting", "newListener"])
def test_event_that_no_client_can_emit_is_refused(tmp_path: Path, event: str) -> None:
    """An event that Socket.IO keeps for itself cannot carry messages."""
    said = refused(tmp_path, changed(('event = "chat message"', f'event = "{event}"')))
    assert said == f"key `protocol.event`: {event!r} is not the name of an event that a client can emit"


def test_namespace_without_a_slash_is_refused(tmp_path: Path) -> None:
    """A namespace begins with a slash."""
    said = refused(tmp_path, with_key("protocol", 'namespace = "chat"'))
    assert said == "key `protocol.namespace`: expected a name that starts with `/`, got 'chat'"


@pytest.mark.parametrize(
    ("changes", "placeholder"),
    [
        ([(', "{port}"', "")], "{port}"),
        ([("{port}", "{ port }")], "{port}"),
        ([('"{database}"', '"/home/me/chat.db"')], "{database}"),
        ([(', "{port}"', ', "{message}{PORT}{python}"')], "{port}"),
    ],
)
def test_placeholder_that_is_used_nowhere_is_refused(
    tmp_path: Path, changes: list[tuple[str, str]], placeholder: str
) -> None:
    """A server on a port of its own choice, or with a store of its own, would share what is the user's: refused."""
    said = refused(tmp_path, changed(*changes))
    assert said.startswith(f"`{placeholder}` is used nowhere: put it in server.command, server.env or store.location")


def test_placeholder_outside_what_is_run_does_not_count(tmp_path: Path) -> None:
    """A placeholder in a text that is never filled does not give the server a port of its own."""
    text = changed((', "{port}"', ""), ("SELECT id", "SELECT '{port}', id"))
    assert refused(tmp_path, text).startswith("`{port}` is used nowhere")


def test_placeholder_in_a_control_does_not_count_for_the_server(tmp_path: Path) -> None:
    """Server and control each need a port of their own: a placeholder in the other's command is not theirs."""
    control = 'without_unique = ["node", "loose.js", "{port}"]'
    said = refused(tmp_path, with_key("controls", control, text=changed((', "{port}"', ""))))
    assert said.startswith("`{port}` is used nowhere: put it in server.command")
    said = refused(tmp_path, with_key("controls", 'without_unique = ["node", "loose.js"]'))
    assert said.startswith("`{port}` is used nowhere: put it in controls.without_unique")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('"chat:1"', '""'), "key `container.image`: expected the name of an image, got ''"),
        (('image = "chat:1"', ""), "missing key `container.image`"),
        (("3000", "0"), "key `container.port`: expected a port, got 0"),
        (("3000", "-1"), "key `container.port`: expected a port, got -1"),
        (("3000", "65536"), "key `container.port`: expected a port, got 65536"),
        (
            ('"/data" =', '"data" ='),
            "key `container.volumes`: expected a path from the root of the container, got 'data'",
        ),
        (('"/data" =', '"" ='), "key `container.volumes`: expected a path from the root of the container, got ''"),
        (
            ('"{folder}" }', '"{database}" }'),
            "key `container.volumes`: expected a path of this machine, or one with `{folder}`, got '{database}'",
        ),
        (('"{folder}" }', "1 }"), "key `container.volumes./data`: expected a string, got a whole number"),
        (
            ("port = 3000", "port = 3000\nenvironment = { A = 1 }"),
            "key `container.environment.A`: expected a string, got a whole number",
        ),
        (
            ("port = 3000", 'port = 3000\npass_environment = ["A", 1]'),
            "key `container.pass_environment[1]`: expected a string, got a whole number",
        ),
    ],
)
def test_image_that_cannot_be_run_is_refused(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    """Its name, its port and its volumes have to be such, and its environment text."""
    assert refused(tmp_path, changed(change, text=IMAGE)) == said


@pytest.mark.parametrize("port", [1, 3000, 65535])
def test_image_may_have_a_port_of_its_own(tmp_path: Path, port: int) -> None:
    """Then nothing needs to be told another one."""
    read = t.load(str(write(tmp_path, changed(("3000", str(port)), text=IMAGE))))
    assert read.container == t.Container(image="chat:1", port=port, volumes={"/data": "{folder}"})


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ("container", 'environment = { PORT = "{port}" }'),
        ("container", 'command = ["node", "server.js", "{port}"]'),
        ("server", 'env = { PORT = "{port}" }'),
    ],
)
def test_image_without_a_port_of_its_own_has_to_be_told_one(tmp_path: Path, table: str, told: str) -> None:
    """In its environment, or in the command that it is to run."""
    told_nowhere = changed(("port = 3000\n", ""), text=IMAGE)
    assert refused(tmp_path, told_nowhere).startswith("`{port}` is used nowhere: put it in container.command, ")
    assert t.load(str(write(tmp_path, with_key(table, told, text=told_nowhere)))).name == "mine"


def test_server_here_and_its_image_each_need_a_port(tmp_path: Path) -> None:
    """What one is told is nothing to the other."""
    both = with_key("container", 'command = ["node", "server.js"]\nimage = "chat:1"')
    assert refused(tmp_path, both).startswith("`{port}` is used nowhere: put it in container.command, ")
    assert t.load(str(write(tmp_path, with_key("container", "port = 3000", text=both)))).name == "mine"


@pytest.mark.parametrize("location", ["chat.db", "/data/chat.db", "{port}.db"])
def test_store_of_an_image_has_to_be_the_runs_own(tmp_path: Path, location: str) -> None:
    """A path in the container names nothing here."""
    said = refused(tmp_path, changed(("{folder}/chat.db", location), text=IMAGE))
    assert said.startswith(
        f"key `store.location`: expected a path with `{{database}}` or `{{folder}}`, got {location!r}"
    )


@pytest.mark.parametrize("receivers", ["exactly-once", "at-least-once"])
def test_promise_to_receivers_needs_broadcast_and_replay(tmp_path: Path, receivers: str) -> None:
    """Who promises receivers anything has to say what they listen to, and has to replay what they were cut off from."""
    promised = with_key("claims", f'receivers = "{receivers}"')
    assert refused(tmp_path, promised) == f"missing key `protocol.broadcast`: claims.receivers is {receivers!r}"
    heard = with_key("protocol", 'broadcast = "said"', text=promised)
    said = refused(tmp_path, heard)
    assert said.startswith(f"key `claims.replay`: expected true, since claims.receivers is {receivers!r}: ")
    replayed = with_key("claims", "replay = true", text=heard)
    assert t.load(str(write(tmp_path, replayed))).claims.receivers == receivers


def test_no_promise_to_receivers_needs_neither(tmp_path: Path) -> None:
    """A broadcast without a promise, and a replay without one, are nobody's fault."""
    text = with_key("protocol", 'broadcast = "said"', text=with_key("claims", "replay = true"))
    assert t.load(str(write(tmp_path, text))).claims.receivers == "none"


VALUES = st.recursive(
    st.booleans() | st.integers(-2, 2) | st.sampled_from(["", "x", "{port}", "sqlite", "tcp"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "env", "command"]), inner),
    max_leaves=4,
)


def as_toml(value: object) -> str:
    """A value as inline TOML."""
    match value:
        case bool():
            return str(value).lower()
        case dict():
            return "{" + ", ".join(f"{name} = {as_toml(inner)}" for name, inner in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(as_toml, value)) + "]"
        case str():
            return f'"{value}"'
    return str(value)


@settings(deadline=None, max_examples=100)
@given(st.dictionaries(st.sampled_from([*t.Target.__struct_fields__, "x"]), VALUES, max_size=9))
def test_any_bad_document_is_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, document: dict[str, object]
) -> None:
    """Whatever a file says instead of a description, the error names the file, and there is no other end."""
    text = "\n".join(f"{name} = {as_toml(value)}" for name, value in document.items())
    path = write(tmp_path_factory.getbasetemp(), text, "any.toml")
    with pytest.raises(TargetError, match=re.escape(str(path))):
        t.load(str(path))
