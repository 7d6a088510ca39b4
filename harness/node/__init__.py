"""Node, and the official Socket.IO packages in the versions of package-lock.json: found, or put into the cache."""

import functools
import hashlib
import os
import platform
import re
import shutil
from pathlib import Path

import msgspec

from harness.cache import InstallError, alone_in, default_folder, run, workplace
from harness.errors import brief, ending

OLDEST = 20
"""The oldest major version of Node that the packages run on."""

PACKAGES = Path(__file__).parent
"""The folder of package.json and of package-lock.json, which names no address that a package is fetched from."""

_VERSION_TIMEOUT_SECONDS = 10.0
# sqlite3 ships no binary for every machine: it is compiled in a minute or two, longer on a busy one.
_INSTALL_TIMEOUT_SECONDS = 900.0


def _printed_version() -> str:
    return run(["node", "--version"], timeout_seconds=_VERSION_TIMEOUT_SECONDS)[1].strip()


@functools.cache
def lack() -> str | None:
    """What keeps this machine from running Node programs, and what helps; None when nothing does."""
    helps = f"install Node {OLDEST} or newer (https://nodejs.org, `apt install nodejs npm`, `brew install node`)"
    return None if (problem := obstacle()) is None else f"{problem}: {helps}"


def obstacle() -> str | None:
    """What keeps this machine from running Node programs, without what helps; None when nothing does."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            return f"there is no `{program}` on PATH"
    try:
        printed = _printed_version()
    except (InstallError, OSError) as error:
        return f"`node --version` failed ({error})"
    found = re.match(r"v(\d+)\.", printed)
    if found is None or int(found[1]) < OLDEST:
        return f"`node --version` says {brief(printed)}"
    return None


def modules_folder(cache: Path | None = None) -> Path:
    """Where the packages are, or will be: a folder of its own for each lock file and kind of machine."""
    lock = hashlib.sha256((PACKAGES / "package-lock.json").read_bytes()).hexdigest()[:12]
    machine = f"{platform.system()}-{platform.machine()}".lower()
    return (cache or default_folder()).absolute() / f"node-{machine}-{lock}" / "node_modules"


def modules(cache: Path | None = None) -> Path:
    """The `node_modules` with the packages, installed by `npm ci` where they are not there yet.

    Blocks, while it installs for minutes. Any number of processes may call it at once: one installs, the others wait.

    Args:
        cache: the harness's cache directory; by default `midemit` in `$XDG_CACHE_HOME` or `~/.cache`.

    Raises:
        InstallError: there is no Node, or they cannot be installed; the text says why and what helps.
    """
    installed = modules_folder(cache)
    if installed.is_dir():
        return installed
    if (problem := lack()) is not None:
        raise InstallError(problem)
    try:
        with alone_in(installed.parent) as home:
            if not installed.is_dir():
                _install(home, installed)
    except OSError as error:
        raise InstallError(f"cannot install the Node packages into {installed}: {error.strerror or error}") from error
    return installed


def _install(home: Path, installed: Path) -> None:
    with workplace(home) as place:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(PACKAGES / name, place / name)
        command = ["npm", "ci", "--no-audit", "--no-fund", "--loglevel=error"]
        env = {**_headers(), **os.environ}
        status, printed = run(command, cwd=place, env=env, timeout_seconds=_INSTALL_TIMEOUT_SECONDS)
        if status != 0:
            raise InstallError(
                f"`{' '.join(command)}` {ending(status)} and printed {brief(printed)}. It needs the npm registry, and "
                "a C++ compiler, make and Python where sqlite3 has no binary for this machine"
            )
        (place / "node_modules").rename(installed)


def _headers() -> dict[str, str]:
    """Node's own headers for what is compiled, where they were installed with it; else they are downloaded."""
    prefix = Path(shutil.which("node") or "").resolve().parent.parent
    return {"npm_config_nodedir": str(prefix)} if (prefix / "include/node/node_version.h").exists() else {}


@functools.cache
def versions() -> dict[str, str]:
    """The versions of Node and, by the lock file, of the packages that decide outcomes."""
    lock = msgspec.json.decode((PACKAGES / "package-lock.json").read_bytes())
    return {"node": _printed_version()} | {
        name: str(lock["packages"][f"node_modules/{name}"]["version"])
        for name in ("socket.io", "socket.io-client", "engine.io", "engine.io-client", "sqlite3", "libsql")
    }
