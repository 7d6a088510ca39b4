"""The description of a system under test, a TOML file, and its validation."""

import contextlib
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import msgspec

from harness import node
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

    command: list[str] = []
    cwd: str = "."
    ready: str = "tcp"
    env: dict[str, str] = {}
    fork: list[str] | None = None
    ready_timeout_seconds: float = 10
    stop_timeout_seconds: float = 5


class Container(_Table, frozen=True, kw_only=True):
    """An image that has the server, for containers; commands of controls are run in it, too.

    Attributes:
        command: in the place of the image's own.
        port: where it listens in its container, or None where it is told `{port}`.
        environment: what it is given; `server.env` is for all runtimes.
        pass_environment: variables of the harness's own that it is given, and whose values appear in no log.
        volumes: by paths in the container, what is there: of this machine, read-only, or of the run (`{folder}`).
    """

    image: str
    command: list[str] = []
    port: int | None = None
    environment: dict[str, str] = {}
    pass_environment: list[str] = []
    volumes: dict[str, str] = {}


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
    recovery_seconds: float | None = None


class Controls(_Table, frozen=True, kw_only=True):
    """Commands that start the same server with a protection off."""

    without_unique: list[str] | None = None
    without_acknowledgement: list[str] | None = None
    without_recovery: list[str] | None = None


class Client(_Table, frozen=True, kw_only=True):
    """The program that is the sender where a scenario needs one in a process of its own; see clients/PROTOCOL.md."""

    command: list[str] = msgspec.field(default_factory=lambda: ["{python}", "-m", "harness.clients.worker"])


Points = dict[str, dict[str, str]]
"""The name of a place in the server's code -> the environment in which something happens there."""


class Target(_Table, frozen=True, kw_only=True):
    """A validated description. `path` is its file; relative paths in it are relative to that file's folder."""

    schema: Literal[1]
    name: str
    server: Server = msgspec.field(default_factory=Server)
    container: Container | None = None
    protocol: Protocol
    store: Store
    claims: Claims = Claims()
    controls: Controls = Controls()
    client: Client = msgspec.field(default_factory=Client)
    crash_points: Points = {}
    delay_points: Points = {}
    error_points: Points = {}
    path: Path = Path()

    def command(self, control: str | None = None) -> list[str]:
        """The server's command, or that of one of its controls, with its placeholders."""
        command = getattr(self.controls, control) if control else self.server.command
        assert isinstance(command, list)
        return command

    @property
    def needs_node(self) -> bool:
        """Whether it runs on the harness's own Node packages."""
        commands = (self.server.command, *msgspec.structs.asdict(self.controls).values())
        texts = [*self.server.env.values(), *(text for command in commands for text in command or ())]
        return any("{node_modules}" in text for text in texts)

    @property
    def folder(self) -> Path:
        """The working directory of the server."""
        return (self.path.parent / self.server.cwd).resolve()


def fill(text: str, *, port: int, database: Path) -> str:
    """Put the values of this machine and of a run in the place of their placeholders; other braces stay."""
    return put(text, {**of_machine(), **of_run(port, database)})


def of_run(port: int, database: Path) -> dict[str, str]:
    """The placeholders for what each run has of its own, with that: a port, a database, and the folder that has it."""
    return {"{port}": str(port), "{database}": str(database), "{folder}": str(database.parent)}


def of_machine() -> dict[str, str]:
    """The placeholders that have the same value in every run, with that."""
    return {"{python}": sys.executable, "{node_modules}": str(node.modules_folder()), "{host}": "127.0.0.1"}


def is_of_run(text: str) -> bool:
    """Whether a text has placeholders for what each run has of its own."""
    return any(placeholder in text for placeholder in of_run(0, Path()))


def put(text: str, values: Mapping[str, str]) -> str:
    """Put values in the place of their placeholders."""
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
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, a number of 5000 digits, brackets without end
        raise TargetError(f"{path} is not valid TOML: {error}") from error
    if "path" in document:
        raise TargetError(f"{path}: unknown key `path`; {_known(Target)}")
    try:
        target = msgspec.convert(document, Target)
    except msgspec.ValidationError as error:
        raise TargetError(f"{path}: {_explain(str(error), document)}") from error
    problem = next(_problems(target), None)
    if problem:
        raise TargetError(f"{path}: {problem}")
    return msgspec.structs.replace(target, path=path.resolve())


def _find(path_or_name: str) -> Path:
    given = Path(path_or_name)
    shipped = SHIPPED / path_or_name / "target.toml"
    for candidate in (given, given / "target.toml", shipped, SHIPPED / path_or_name):
        with contextlib.suppress(OSError):  # a name that is too long, a folder that is closed to us
            if candidate.is_file():
                return candidate
    names = ", ".join(sorted(str(p.parent.relative_to(SHIPPED)) for p in SHIPPED.glob("*/target.toml")))
    raise TargetError(
        f"no target description at {given}: give the path of a TOML file, of a folder with a target.toml, "
        f"or the name of a shipped target ({names})"
    )


_TABLES: dict[str, type[msgspec.Struct]] = {
    "server": Server,
    "container": Container,
    "protocol": Protocol,
    "store": Store,
    "claims": Claims,
    "controls": Controls,
    "client": Client,
}


def _known(table: type[msgspec.Struct]) -> str:
    hidden = {"path"} if table is Target else set()
    names = sorted(field.name for field in msgspec.structs.fields(table) if field.name not in hidden)
    return "known keys are " + ", ".join(f"`{name}`" for name in names)


def _explain(text: str, document: dict[str, Any]) -> str:
    """Say in the words of a TOML file what msgspec says as `Expected `int`, got `str` - at `$.schema``."""
    said, _, where = text.partition(" - at `")
    quoted = said.split("`")
    key = where.rstrip("`").removeprefix("$").removeprefix(".")
    key = _key_of_wrong_type(key, document, str if quoted[1:2] == ["str"] else dict)
    if said.startswith("Object contains unknown field"):
        table = _TABLES.get(key, Target)
        return f"unknown key `{key + '.' if key else ''}{quoted[1]}`; {_known(table)}"
    if said.startswith("Object missing required field"):
        return f"missing key `{key + '.' if key else ''}{quoted[1]}`"
    if said.startswith("Expected") and len(quoted) >= 4:
        return f"key `{key}`: expected {_choices(key) or _name_of_type(quoted[1])}, got {_name_of_type(quoted[3])}"
    if said.startswith("Invalid enum value"):
        return f"key `{key}`: expected {_choices(key)}, got {said.removeprefix('Invalid enum value ')}"
    return f"key `{key}`: {said}" if key else said


def _key_of_wrong_type(key: str, document: dict[str, Any], expected: type) -> str:
    """Put the file's own keys where msgspec says `[...]`: those of the first value that is not what was expected."""
    table, *unnamed = key.split("[...]")
    found: list[tuple[str, Any]] = [(table, document)]
    for name in table.split(".") if unnamed else []:
        found = [(table, value[name]) for _, value in found]
    for _ in unnamed:
        found = [(f"{parent}.{name}", inner) for parent, value in found for name, inner in _items(value)]
    return next((name for name, value in found if not isinstance(value, expected)), key) if unnamed else key


def _items(value: object) -> list[tuple[str, Any]]:
    return list(value.items()) if isinstance(value, dict) else []


def _name_of_type(name: str) -> str:
    names = {"array": "a list", "object": "a table", "str": "a string", "int": "a whole number", "float": "a number"}
    names |= {"bool": "true or false", "date": "a date", "time": "a time", "datetime": "a date and time"}
    return names.get(name.removesuffix(" | null"), name)


def _choices(key: str) -> str:
    """The values that a key can have, where they are few."""
    table, _, name = key.rpartition(".")
    hints = {field.name: field.type for field in msgspec.structs.fields(_TABLES.get(table, Target))}
    hint = hints.get(name)
    values = [repr(value) for value in get_args(hint)] if get_origin(hint) is Literal else []
    return "one of " + ", ".join(values) if len(values) > 1 else "".join(values)


def _problems(target: Target) -> Iterator[str]:
    """What is wrong although every key has the right type."""
    server, protocol, claims = target.server, target.protocol, target.claims
    if not server.command and target.container is None:
        yield "missing key `server.command`: the program that is the server, or else an image of it in [container]"
        return
    commands = {"server.command": server.command} if server.command else {}
    if target.container is not None:
        commands["container.command"] = target.container.command
    for name, command in msgspec.structs.asdict(target.controls).items():
        if command is not None:
            commands[f"controls.{name}"] = command
    fork = {"server.fork": server.fork} if server.fork is not None else {}
    for key, command in {**commands, **fork, "client.command": target.client.command}.items():
        if (command and not command[0]) or (not command and key != "container.command"):
            yield f"key `{key}`: expected a program and its arguments, got {command}"
    for key, seconds in {
        "server.ready_timeout_seconds": server.ready_timeout_seconds,
        "server.stop_timeout_seconds": server.stop_timeout_seconds,
        "protocol.ack_timeout_seconds": protocol.ack_timeout_seconds,
        **({"claims.recovery_seconds": claims.recovery_seconds} if claims.recovery_seconds is not None else {}),
    }.items():
        if not 0 < seconds <= _LONGEST_TIMEOUT_SECONDS:
            yield f"key `{key}`: expected seconds above 0 and up to {_LONGEST_TIMEOUT_SECONDS}, got {seconds:g}"
    for text in server.fork or ():
        if is_of_run(text):
            yield f"key `server.fork`: it is told port and database with each server, and {text!r} has no place in it"
    yield from _ready_problems(server.ready)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", target.name):
        yield f"key `name`: expected letters, digits, `-`, `_` and `.`, got {target.name!r}"
    if not protocol.event or protocol.event in _RESERVED_EVENTS:
        yield f"key `protocol.event`: {protocol.event!r} is not the name of an event that a client can emit"
    if not protocol.namespace.startswith("/"):
        yield f"key `protocol.namespace`: expected a name that starts with `/`, got {protocol.namespace!r}"
    yield from _container_problems(target.container)
    of_image = {**target.container.environment, **target.container.volumes} if target.container is not None else {}
    fixed_port = target.container is not None and target.container.port is not None
    needs: dict[tuple[str, ...], str] = {("{port}",): "listen on a port of its own"} if not fixed_port else {}
    needs |= {("{database}", "{folder}"): "write to a store of its own"}
    for key, command in commands.items():
        texts = [*command, *server.env.values(), *of_image.values(), target.store.location]
        for placeholders, need in needs.items():
            if not any(placeholder in text for text in texts for placeholder in placeholders):
                yield (
                    f"`{placeholders[0]}` is used nowhere: put it in {key}, server.env or store.location, so that "
                    f"each run can {need} and nothing of yours is shared or deleted"
                )
    if not any(placeholder in target.store.location for placeholder in ("{database}", "{folder}")):
        yield (
            "key `store.location`: expected a path with `{database}` or `{folder}`, got "
            f"{target.store.location!r}: the store is read and locked, and must be the run's own"
        )
    if claims.receivers != "none" and protocol.broadcast is None:
        yield f"missing key `protocol.broadcast`: claims.receivers is {claims.receivers!r}"
    if claims.receivers != "none" and not claims.replay:
        yield (
            f"key `claims.replay`: expected true, since claims.receivers is {claims.receivers!r}: "
            "a receiver whose link was cut can have every message only by replay"
        )


def _container_problems(container: Container | None) -> Iterator[str]:
    if container is None:
        return
    if not container.image:
        yield "key `container.image`: expected the name of an image, got ''"
    if container.port is not None and not 0 < container.port < 2**16:
        yield f"key `container.port`: expected a port, got {container.port}"
    for inside, place in container.volumes.items():
        if not inside.startswith("/"):
            yield f"key `container.volumes`: expected a path from the root of the container, got {inside!r}"
        if is_of_run(place.replace("{folder}", "")):
            yield f"key `container.volumes`: expected a path of this machine, or one with `{{folder}}`, got {place!r}"


def _ready_problems(ready: str) -> Iterator[str]:
    kind, _, rest = ready.partition(":")
    if kind == "log" and rest:
        try:
            re.compile(rest)
        except re.error as error:
            yield f"key `server.ready`: {rest!r} is not a regular expression: {error}"
    elif not (ready == "tcp" or (kind == "http" and rest.startswith("/"))):
        yield f'key `server.ready`: expected "tcp", "http:/path" or "log:regular expression", got {ready!r}'
