"""The description of a system under test, a TOML file, and its validation."""

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from harness.errors import TargetError
from harness.history import Guarantee, Order, Receivers

# Where the targets that ship with the harness are found by name.
SHIPPED = Path(__file__).parent / "targets"
_LONGEST_TIMEOUT_SECONDS = 600
_RESERVED_EVENTS = ("connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener")


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the description: its field names are the TOML keys."""


class Server(_Table, frozen=True, kw_only=True):
    """How to start the server and how to tell that it is ready."""

    command: list[str]
    cwd: str = "."
    ready: str = "tcp"
    env: dict[str, str] = {}
    ready_timeout_seconds: float = 10
    stop_timeout_seconds: float = 5


class Protocol(_Table, frozen=True, kw_only=True):
    """What clients say to the server and hear from it."""

    event: str
    broadcast: str | None = None
    namespace: str = "/"
    path: str = "/socket.io"
    ack_timeout_seconds: float = 1


class Store(_Table, frozen=True, kw_only=True):
    """Where the stored messages can be read."""

    kind: Literal["sqlite"]
    location: str
    rows: str


class Claims(_Table, frozen=True, kw_only=True):
    """What the target promises."""

    guarantee: Guarantee = "exactly-once"
    order: Order = "sequential"
    receivers: Receivers = "none"
    replay: bool = False
    content: Literal["any", "plain"] = "any"


class Controls(_Table, frozen=True, kw_only=True):
    """Commands that start the same server with a protection off."""

    without_unique: list[str] | None = None


class Target(_Table, frozen=True, kw_only=True):
    """A validated description. `path` is its file; relative paths in it are relative to that file's folder."""

    schema: Literal[1]
    name: str
    server: Server
    protocol: Protocol
    store: Store
    claims: Claims = Claims()
    controls: Controls = Controls()
    crash_points: dict[str, dict[str, str]] = {}
    path: Path = Path()

    def command(self, control: str | None = None) -> list[str]:
        """The server's command, or that of one of its controls, with its placeholders."""
        command = getattr(self.controls, control) if control else self.server.command
        assert isinstance(command, list)
        return command

    @property
    def folder(self) -> Path:
        """The working directory of the server."""
        return (self.path.parent / self.server.cwd).resolve()


def fill(text: str, *, port: int, database: Path) -> str:
    """Put the values of a run in the place of `{python}`, `{port}` and `{database}`; other braces stay."""
    values = {"{python}": sys.executable, "{port}": str(port), "{database}": str(database)}
    for placeholder, value in values.items():
        text = text.replace(placeholder, value)
    return text


def load(path_or_name: str) -> Target:
    """Read a description by its path, by the folder that holds its `target.toml`, or by the name of a shipped one.

    Raises:
        TargetError: there is none, or it is not valid; the text names the file, the key and what was expected.
    """
    path = _find(path_or_name)
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise TargetError(f"cannot read the target description {path}: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise TargetError(f"{path} is not valid TOML: {error}") from error
    if "path" in document:
        raise TargetError(f"{path}: unknown key `path`; {_known(Target)}")
    try:
        target = msgspec.convert(document, Target)
    except msgspec.ValidationError as error:
        raise TargetError(f"{path}: {_explain(str(error))}") from error
    problem = next(_problems(target), None)
    if problem:
        raise TargetError(f"{path}: {problem}")
    return msgspec.structs.replace(target, path=path.resolve())


def _find(path_or_name: str) -> Path:
    given = Path(path_or_name)
    shipped = SHIPPED / path_or_name / "target.toml"
    for candidate in (given, given / "target.toml", shipped):
        if candidate.is_file():
            return candidate
    names = ", ".join(sorted(str(p.parent.relative_to(SHIPPED)) for p in SHIPPED.glob("*/target.toml")))
    raise TargetError(
        f"no target description at {given}: give the path of a TOML file, of a folder with a target.toml, "
        f"or the name of a shipped target ({names})"
    )


_TABLES: dict[str, type[msgspec.Struct]] = {
    "server": Server,
    "protocol": Protocol,
    "store": Store,
    "claims": Claims,
    "controls": Controls,
}


def _known(table: type[msgspec.Struct]) -> str:
    hidden = {"path"} if table is Target else set()
    names = sorted(field.name for field in msgspec.structs.fields(table) if field.name not in hidden)
    return "known keys are " + ", ".join(f"`{name}`" for name in names)


def _explain(text: str) -> str:
    """Say in the words of a TOML file what msgspec says as `Expected `int`, got `str` - at `$.schema``."""
    said, _, where = text.partition(" - at `")
    key = where.rstrip("`").removeprefix("$").removeprefix(".").replace("[...]", "")
    quoted = said.split("`")
    if said.startswith("Object contains unknown field"):
        table = _TABLES.get(key, Target)
        return f"unknown key `{key + '.' if key else ''}{quoted[1]}`; {_known(table)}"
    if said.startswith("Object missing required field"):
        return f"missing key `{key + '.' if key else ''}{quoted[1]}`"
    names = {"array": "a list", "object": "a table", "str": "a string", "int": "a whole number", "float": "a number"}
    names |= {"bool": "true or false", "object | null": "a table", "array | null": "a list", "str | null": "a string"}
    if said.startswith("Expected") and len(quoted) >= 4:
        return f"key `{key}`: expected {names.get(quoted[1], quoted[1])}, got {names.get(quoted[3], quoted[3])}"
    if said.startswith("Invalid enum value"):
        return f"key `{key}`: expected one of {_choices(key)}, got {said.removeprefix('Invalid enum value ')}"
    return f"key `{key}`: {said}" if key else said


def _choices(key: str) -> str:
    table, _, name = key.rpartition(".")
    hints = {field.name: field.type for field in msgspec.structs.fields(_TABLES.get(table, Target))}
    return ", ".join(repr(value) for value in getattr(hints.get(name), "__args__", ()))


def _problems(target: Target) -> Iterator[str]:
    """What is wrong although every key has the right type."""
    server, protocol, claims = target.server, target.protocol, target.claims
    commands = {"server.command": server.command}
    if target.controls.without_unique is not None:
        commands["controls.without_unique"] = target.controls.without_unique
    for key, command in commands.items():
        if not command or not command[0]:
            yield f"key `{key}`: expected a program and its arguments, got an empty list"
    for key, seconds in {
        "server.ready_timeout_seconds": server.ready_timeout_seconds,
        "server.stop_timeout_seconds": server.stop_timeout_seconds,
        "protocol.ack_timeout_seconds": protocol.ack_timeout_seconds,
    }.items():
        if not 0 < seconds <= _LONGEST_TIMEOUT_SECONDS:
            yield f"key `{key}`: expected seconds above 0 and up to {_LONGEST_TIMEOUT_SECONDS}, got {seconds:g}"
    yield from _ready_problems(server.ready)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", target.name):
        yield f"key `name`: expected letters, digits, `-`, `_` and `.`, got {target.name!r}"
    if not protocol.event or protocol.event in _RESERVED_EVENTS:
        yield f"key `protocol.event`: {protocol.event!r} is not the name of an event that a client can emit"
    if not protocol.namespace.startswith("/"):
        yield f"key `protocol.namespace`: expected a name that starts with `/`, got {protocol.namespace!r}"
    texts = [text for command in commands.values() for text in command]
    texts += [*server.env.values(), target.store.location]
    needs = {"{port}": "listen on a port of its own", "{database}": "write to a store of its own"}
    for placeholder, need in needs.items():
        if not any(placeholder in text for text in texts):
            yield (
                f"`{placeholder}` is used nowhere: put it in server.command, server.env or store.location, so that "
                f"each run can {need} and nothing of yours is shared or deleted"
            )
    if claims.receivers != "none" and protocol.broadcast is None:
        yield f"missing key `protocol.broadcast`: claims.receivers is {claims.receivers!r}"
    if claims.receivers != "none" and not claims.replay:
        yield (
            f"key `claims.replay`: expected true, since claims.receivers is {claims.receivers!r}: "
            "a receiver whose link was cut can have every message only by replay"
        )


def _ready_problems(ready: str) -> Iterator[str]:
    kind, _, rest = ready.partition(":")
    if kind == "log" and rest:
        try:
            re.compile(rest)
        except re.error as error:
            yield f"key `server.ready`: {rest!r} is not a regular expression: {error}"
    elif not (ready == "tcp" or (kind == "http" and rest.startswith("/"))):
        yield f'key `server.ready`: expected "tcp", "http:/path" or "log:regular expression", got {ready!r}'
