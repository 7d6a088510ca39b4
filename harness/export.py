"""Folders that reproduce a known defect without this harness: official packages, the real Toxiproxy, one script."""

import re
import shutil
from pathlib import Path

from harness import defects, node
from harness.errors import HarnessError
from harness.target import SHIPPED

_TEMPLATES = Path(defects.__file__).parent
_COMMAND = re.compile(r"^    (\S.*)$", re.MULTILINE)


class ExportError(HarnessError):
    """There is nothing to write, or no place for it."""


def known() -> list[str]:
    """The defects that can be exported, in the order of their numbers."""
    numbers = (readme.parent.name for readme in _TEMPLATES.glob("*/README.md"))
    return sorted(numbers, key=lambda number: (number[0], int(number[1:])))


def export(number: str, to: Path) -> Path:
    """Write what reproduces a defect: a script, its server and what it needs, and a README.

    Args:
        number: of the defect, as in `known()`.
        to: a folder that is empty or not there yet.

    Raises:
        ExportError: there is no such defect, the folder holds something, or it cannot be written.
    """
    if number not in known():
        raise ExportError(f"there is no defect {number!r} to export; there are {', '.join(known())}")
    template = _TEMPLATES / number
    try:
        to.mkdir(parents=True, exist_ok=True)
        if any(to.iterdir()):
            raise ExportError(f"the folder {to} is not empty: name another with --to")
        for source in (*sorted(path for path in template.iterdir() if path.is_file()), *_needed(template)):
            shutil.copyfile(source, to / source.name)
    except OSError as error:
        raise ExportError(f"cannot write {to}: {error.strerror or error}") from error
    return to


def commands(folder: Path) -> list[str]:
    """What an exported folder's README says how to run it: what installs its packages, and what runs it."""
    _, _, section = (folder / "README.md").read_text(encoding="utf-8").partition("## How to run\n")
    return _COMMAND.findall(section.partition("\n## ")[0])


def _needed(template: Path) -> list[Path]:
    if (template / "run.py").exists():
        return [
            _TEMPLATES / "common.py",
            _TEMPLATES / "requirements.txt",
            SHIPPED / "tutorial-python" / "server.py",
        ]
    return [
        _TEMPLATES / "common.js",
        *(SHIPPED / "tutorial-node" / name for name in ("server.js", "switches.js")),
        *(node.PACKAGES / name for name in ("package.json", "package-lock.json")),
    ]
