"""Histories on disk: what is recorded can be read back, and what cannot be read is an error that says where."""

import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import history as h
from harness.errors import HarnessError
from harness.history import History, Recorder, SavedHistory
from tests.histories import RUN, events, identity, started

FIRST = started()
SECOND = h.Receiving(time=1.5, receiver="rita")
THIRD = h.Received(time=2.0, receiver="rita", server_offset=7, content="Grüße \U0001f680\n\u2028")


def written(path: Path, *recorded: h.AnyEvent) -> list[h.AnyEvent]:
    """Record events in a file, and return what the recorder remembers of them."""
    recorder = Recorder(path)
    try:
        for event in recorded:
            recorder.record(event)
    finally:
        recorder.close()
    return recorder.events


# -- the round trip ----------------------------------------------------------------------------------------------


def test_recorded_history_is_read_back(tmp_path: Path) -> None:
    """A history reads back as the events that were recorded, in their order."""
    path = tmp_path / "history.jsonl"
    assert written(path, FIRST, SECOND, THIRD) == [FIRST, SECOND, THIRD]
    history = History.load(path)
    assert list(history) == [FIRST, SECOND, THIRD]
    assert history.started == FIRST


def test_history_is_one_json_object_a_line(tmp_path: Path) -> None:
    """Each event is one line, whatever line breaks its texts hold, and its kind is in `event`."""
    path = tmp_path / "history.jsonl"
    written(path, FIRST, SECOND, THIRD)
    lines = path.read_bytes().split(b"\n")
    assert [msgspec.json.decode(line)["event"] for line in lines[:-1]] == ["started", "receiving", "received"]
    assert lines[-1] == b""


@settings(deadline=None, max_examples=100)
@given(st.lists(events(), max_size=10))
def test_any_events_survive_the_round_trip(recorded: list[h.AnyEvent]) -> None:
    """Any events with any text read back as they were recorded."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "history.jsonl"
        assert written(path, FIRST, *recorded) == [FIRST, *recorded]
        assert list(History.load(path)) == [FIRST, *recorded]


@settings(deadline=None, max_examples=100)
@given(st.lists(events(st.text(st.characters(categories=["Cs", "Lu", "Nd"]), max_size=6)), max_size=10))
def test_half_surrogate_pairs_do_not_part_memory_from_disk(recorded: list[h.AnyEvent]) -> None:
    """Texts with half a surrogate pair, which no UTF-8 can hold, are the same on disk as in the recorder's memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "history.jsonl"
        remembered = written(path, FIRST, *recorded)
        assert list(History.load(path)) == remembered
        assert len(remembered) == 1 + len(recorded)


def test_half_a_surrogate_pair_is_recorded_as_its_escape(tmp_path: Path) -> None:
    """A broadcast that a server cut inside an emoji is recorded with its escape, and everything else as it was."""
    path = tmp_path / "history.jsonl"
    whole = msgspec.structs.replace(THIRD, content="Grüße \\ud83d")
    assert written(path, FIRST, msgspec.structs.replace(THIRD, content="Grüße \ud83d")) == [FIRST, whole]
    assert list(History.load(path)) == [FIRST, whole]


def test_every_event_is_a_kind_of_its_own() -> None:
    """A history has as many tags as kinds of events."""
    kinds = h.AnyEvent.__args__
    tags = {kind.__struct_config__.tag for kind in kinds}
    assert len(tags) == len(kinds) == 26
    assert all(isinstance(tag, str) and tag == tag.lower() for tag in tags)


# -- recording ---------------------------------------------------------------------------------------------------


def test_each_event_is_on_disk_as_soon_as_it_is_recorded(tmp_path: Path) -> None:
    """Another reader sees each event at once, so that a killed run leaves what it recorded."""
    path = tmp_path / "history.jsonl"
    recorder = Recorder(path)
    try:
        recorded: list[h.AnyEvent] = []
        for event in (FIRST, SECOND, THIRD):
            recorder.record(event)
            recorded.append(event)
            assert list(History.load(path)) == recorded
    finally:
        recorder.close()


def test_times_begin_with_the_recorder_and_never_go_back(tmp_path: Path) -> None:
    """The recorder's clock starts at about zero, counts microseconds and is monotonic."""
    recorder = Recorder(tmp_path / "history.jsonl")
    recorder.close()
    times = [recorder.now() for _ in range(1000)]
    assert times == sorted(times)
    assert 0 <= times[0] < 5
    assert all(time == round(time, 6) for time in times)


def test_full_disk_is_an_error() -> None:
    """An event that the disk has no room for is an error at the end, which names the file."""
    recorder = Recorder(Path("/dev/full"))
    recorder.record(FIRST)
    with pytest.raises(HarnessError, match=r"cannot write the history /dev/full: No space left on device"):
        recorder.close()


def test_disk_that_fills_up_inside_a_line_leaves_whole_lines(tmp_path: Path) -> None:
    """A line of which only a part fits is an error, and is taken back: the history is readable, and ends before it."""
    path = tmp_path / "history.jsonl"
    written(path, FIRST)
    program = f"""
import resource, sys
from pathlib import Path
from harness.errors import HarnessError
from harness.history import Receiving, Recorder
first = {path.read_bytes()!r}
recorder = Recorder(Path(sys.argv[1]))
recorder._file.write(first)
resource.setrlimit(resource.RLIMIT_FSIZE, (len(first) + 60, resource.RLIM_INFINITY))
recorder.record(Receiving(time=1.0, receiver="x" * 500))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
recorder.record(Receiving(time=1.5, receiver="rita"))
try:
    recorder.close()
except HarnessError as error:
    print(error)
"""
    ran = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True, timeout=30)
    assert ran.stdout == f"cannot write the history {path}: no space left\n"
    assert list(History.load(path)) == [FIRST]


def test_history_in_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    """A history that cannot be made is an error that names the file."""
    path = tmp_path / "missing" / "history.jsonl"
    with pytest.raises(HarnessError, match=r"cannot write the history .*missing/history\.jsonl: No such file"):
        Recorder(path)


# -- reading -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [1, 2, 20])
def test_last_line_of_a_killed_run_is_dropped(tmp_path: Path, cut: int) -> None:
    """A last line without its end is dropped, and the history before it is read."""
    path = tmp_path / "history.jsonl"
    written(path, FIRST, SECOND, THIRD)
    path.write_bytes(path.read_bytes()[:-cut])
    assert list(History.load(path)) == [FIRST, SECOND]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"garbage",
        b'{"event":"receiving","time":1.5,"recei',
        b'{"event":"nonsense","time":1}',
        b'{"event":"receiving","time":1.5}',
        b'{"event":"receiving","time":"now","receiver":"rita"}',
        b'{"event":"receiving","time":1.5,"receiver":"\xff"}',
        b'{"event":"receiving","time":1.5,"receiver":"\\ud83d"}',
        b"\xff\xfe",
        b"\x00" * 40,
        b"[]",
        b"[" * 100_000,
    ],
    ids=lambda line: repr(line[:40]),
)
def test_line_that_is_no_event_is_an_error_that_says_where(tmp_path: Path, line: bytes) -> None:
    """A whole line that is no event is an error that names the file and the line."""
    path = tmp_path / "history.jsonl"
    written(path, FIRST, SECOND)
    path.write_bytes(path.read_bytes() + line + b"\n" + msgspec.json.encode(THIRD) + b"\n")
    with pytest.raises(HarnessError, match=r"history\.jsonl, line 3: not an event of a history"):
        History.load(path)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", r"history\.jsonl is empty$"),
        (b'{"event":"sta', r"history\.jsonl is empty but for half a line$"),
        (msgspec.json.encode(SECOND) + b"\n", r"history\.jsonl: a history begins with a `started` event"),
    ],
)
def test_file_without_a_beginning_is_an_error(tmp_path: Path, content: bytes, why: str) -> None:
    """A file that does not begin with a whole `started` event is an error that names the file and the reason."""
    path = tmp_path / "history.jsonl"
    path.write_bytes(content)
    with pytest.raises(HarnessError, match=why):
        History.load(path)


@pytest.mark.parametrize(("name", "why"), [("missing.jsonl", "No such file"), (".", "Is a directory")])
def test_file_that_cannot_be_read_is_an_error(tmp_path: Path, name: str, why: str) -> None:
    """A path that cannot be read is an error that says why."""
    with pytest.raises(HarnessError, match=rf"cannot read the history .*: {why}"):
        History.load(tmp_path / name)


@pytest.mark.parametrize("block_bytes", [1, 7, 100, 250, 1000, 1 << 16])
def test_event_is_read_again_by_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int) -> None:
    """Every event of a saved history is found by its number, however long the blocks are that are read."""
    monkeypatch.setattr(h, "_BLOCK_BYTES", block_bytes)
    path = tmp_path / "history.jsonl"
    written(path, FIRST, *[msgspec.structs.replace(SECOND, time=float(2**place)) for place in range(50)])
    saved, loaded = SavedHistory(path), History.load(path)
    assert [saved.at(number) for number in range(51)] == list(saved) == list(loaded.events) == list(saved.events)


def test_history_of_no_events_is_an_error() -> None:
    """A history is never empty, and begins with `started`."""
    wrongs: tuple[list[h.AnyEvent], ...] = ([], [SECOND], [SECOND, FIRST])
    for wrong in wrongs:
        with pytest.raises(HarnessError, match="begins with a `started` event"):
            History(wrong)


# -- identities --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sequence", [0, 1, 9999, 10000, 123456])
def test_identity_is_found_where_it_was_put(sequence: int) -> None:
    """An identity is found at either end of a content, whatever surrounds it, and in an offset."""
    message = h.message_id(RUN, "alice", sequence)
    for text in (
        message,
        f" {message} x",
        f"x\n{message}\n",
        f"{message}-uuid",
        f"<b>{message}</b>",
        f"Ω{message}Ω",
        f"{message}\u0660",
    ):
        assert h.identity_in(RUN, text) == message


def test_identity_in_an_earlier_text_comes_first() -> None:
    """The content says whose a row is, and the offset only where the content does not."""
    one, other = identity("alice", 1), identity("bob", 2)
    assert h.identity_in(RUN, f"{one} {other}", other) == one
    assert h.identity_in(RUN, "nothing", other) == other
    assert h.identity_in(RUN, None, other) == other
    assert h.identity_in(RUN, "", None) is None


@pytest.mark.parametrize(
    "text", [f"{RUN}-alice-123", f"{RUN}-alice", f"{RUN}--0001", f"{RUN}-0001", "r4f1d-alice-0001", "alice-0001", ""]
)
def test_part_of_an_identity_is_none(text: str) -> None:
    """What is shorter than an identity, or another run's, is no identity of this run."""
    assert h.identity_in(RUN, text) is None


def test_run_token_is_taken_literally() -> None:
    """A run's token is text and not a pattern."""
    assert h.identity_in("r.1", "rx1-alice-0001") is None
    assert h.identity_in("r.1", "r.1-alice-0001") == "r.1-alice-0001"


def test_next_part_begins_anew(tmp_path: Path) -> None:
    """What was before is gone, in memory and on disk, and times go on."""
    path = tmp_path / "history.jsonl"
    recorder = Recorder(path)
    for event in (FIRST, SECOND, THIRD):
        recorder.record(event)
    recorder.begin_anew(FIRST, THIRD)
    recorder.record(SECOND)
    recorder.close()
    assert recorder.events == [FIRST, THIRD, SECOND] == list(History.load(path))
