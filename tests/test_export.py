"""`python -m harness export`: every folder that it writes reproduces its defect by itself, as its README says."""

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness import export, node
from harness.__main__ import main
from harness.export import ExportError
from harness.install import locate

RUN_TIMEOUT_SECONDS = 120.0
HOLDING = {"A6", "A17"}
"""What is no defect: the schedule shows that a message is kept."""


def programs(folder: Path) -> list[Path]:
    """The sources in an exported folder."""
    return sorted(path for path in folder.iterdir() if path.suffix in {".js", ".py"})


def running_in(folder: Path) -> list[str]:
    """The processes whose working directory is in a folder; where there is no /proc, none can be found."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            state = (process / "stat").read_text().rpartition(")")[2].split()[0]
            if state not in "ZX" and (process / "cwd").resolve().is_relative_to(folder):
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue  # it has just ended
    return found


def run(folder: Path, temporary: Path, timeout_seconds: float = RUN_TIMEOUT_SECONDS) -> tuple[int, list[str]]:
    """Do what the README of a folder says, with packages that are there already; the exit status and the lines."""
    command = shlex.split(export.commands(folder)[-1])
    command = [str(locate().path) if word == "/path/to/toxiproxy-server" else word for word in command]
    if command[0] == "python":
        command[0] = sys.executable
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"NODE_PATH": str(node.modules()), "TMPDIR": str(temporary)}
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            printed, _ = process.communicate(timeout=timeout_seconds)
        finally:
            process.kill()
    sys.stdout.write(printed)  # what a failing test shows
    return process.returncode, printed.splitlines()


@pytest.mark.parametrize("number", export.known())
def test_exported_folder_reproduces_its_defect(tmp_path: Path, number: str) -> None:
    """The script ends with status 0 and says so in its last line; no process and no temporary file is left."""
    folder = export.export(number, tmp_path / number)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    status, lines = run(folder, temporary)
    assert lines[-1].startswith("holds: " if number in HOLDING else "reproduced: ")
    assert status == 0
    assert list(temporary.iterdir()) == []
    assert running_in(tmp_path) == []


def test_lost_row_needs_no_socketio(tmp_path: Path) -> None:
    """The small script beside A20, for the project of node-sqlite3, shows it too; once in three tries will do."""
    folder = export.export("A20", tmp_path / "A20")
    environment = {**os.environ, "NODE_PATH": str(node.modules())}
    for _ in range(3):
        done = subprocess.run(
            ["node", "minimal.js"], cwd=folder, env=environment, capture_output=True, text=True, timeout=30, check=False
        )
        if done.returncode == 0:
            break
    assert re.fullmatch("reproduced: no row of (first|second)", done.stdout.splitlines()[-1])


@pytest.mark.parametrize("number", export.known())
def test_exported_folder_stands_alone(tmp_path: Path, number: str) -> None:
    """No program in it needs the harness, every local one it needs is there, and its packages have fixed versions."""
    folder = export.export(number, tmp_path / number)
    names = {path.name for path in folder.iterdir()}
    for program in programs(folder):
        text = program.read_text(encoding="utf-8")
        assert not re.search(r"\bharness\b|midemit", text), program
        assert set(re.findall(r"require\('\./([^']+)'\)", text)) <= names
    if (folder / "run.js").exists():
        assert "resolved" not in (folder / "package-lock.json").read_text(encoding="utf-8")
        assert {"README.md", "run.js", "common.js", "server.js", "package.json"} <= names
    else:
        assert {"README.md", "run.py", "common.py", "server.py", "requirements.txt"} <= names


def test_export_names_the_folder_and_the_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without --to the folder is named after the defect, in the current one."""
    monkeypatch.chdir(tmp_path)
    assert main(["export", "A1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "midemit-A1"
    assert lines[-2:] == ["    npm ci", "    node run.js --toxiproxy /path/to/toxiproxy-server"]
    assert (tmp_path / "midemit-A1" / "run.js").is_file()


def test_export_refuses_a_folder_that_holds_something(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is overwritten; an empty folder will do."""
    mine = tmp_path / "mine"
    mine.mkdir()
    export.export("A13", mine)
    (mine / "server.js").write_text("changed")
    assert main(["export", "A13", "--to", str(mine)]) != 0
    assert "is not empty" in capsys.readouterr().err
    assert (mine / "server.js").read_text() == "changed"


def test_export_lists_what_it_knows(tmp_path: Path) -> None:
    """An unknown number is answered with the known ones, and nothing is written."""
    with pytest.raises(ExportError, match=r"no defect 'A4' .*A1, .*B4, P1"):
        export.export("A4", tmp_path / "A4")
    assert not (tmp_path / "A4").exists()


def test_export_tells_why_it_cannot_write(tmp_path: Path) -> None:
    """A file in the place of the folder is an error of the user's, and no traceback."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="cannot write"):
        export.export("A1", tmp_path / "file" / "A1")


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_outlives_a_reproduction_that_is_ended(tmp_path: Path, ending: signal.Signals) -> None:
    """However a script ends in the middle, its processes and files go with it."""
    folder = export.export("A2", tmp_path / "A2")
    command = ["node", "run.js", "--toxiproxy", str(locate().path)]
    environment = {**os.environ, "NODE_PATH": str(node.modules()), "TMPDIR": str(tmp_path / "temporary")}
    (tmp_path / "temporary").mkdir()
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "silent" in line:
                break
        process.send_signal(ending)
        rest = process.stdout.read()
        status = process.wait(timeout=20)
    assert status == (-ending if ending == signal.SIGKILL else 1)
    assert ending == signal.SIGKILL or rest.splitlines()[-1] == f"not reproduced: ended by {ending.name}"
    subprocess.run(
        ["sh", "-c", 'i=0; while [ $i -lt 100 ] && ls -A "$0" | grep -q .; do sleep 0.1; i=$((i+1)); done',
         str(tmp_path / "temporary")], check=True,
    )  # fmt: skip
    assert list((tmp_path / "temporary").iterdir()) == []
    assert running_in(tmp_path) == []
