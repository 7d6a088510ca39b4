"""An outbox: what is not settled is there for the next process."""

import contextlib
from pathlib import Path

from harness.clients.outbox import Outbox, Settled
from harness.clients.protocol import Post


def post(name: str) -> Post:
    """A message."""
    return Post(message=name, content=f"content of {name}", offset=f"offset of {name}")


def test_outbox_holds_what_is_not_settled_in_its_order(tmp_path: Path) -> None:
    """What was settled is gone, the rest is there as it was, for whoever opens the file next."""
    with contextlib.closing(Outbox(tmp_path / "outbox.jsonl")) as outbox:
        for command in (post("a"), post("b"), Settled(message="a"), post("c")):
            outbox.keep(command)
    with contextlib.closing(Outbox(tmp_path / "outbox.jsonl")) as outbox:
        assert outbox.unsettled == [post("b"), post("c")]


def test_half_a_line_in_an_outbox_was_never_kept(tmp_path: Path) -> None:
    """A line that a kill left unfinished counts for nothing, and what comes after it stands on a line of its own."""
    path = tmp_path / "outbox.jsonl"
    with contextlib.closing(Outbox(path)) as outbox:
        outbox.keep(post("a"))
    path.write_bytes(path.read_bytes() + b'{"command": "post", "mess')
    with contextlib.closing(Outbox(path)) as outbox:
        outbox.keep(post("b"))
    with contextlib.closing(Outbox(path)) as outbox:
        assert outbox.unsettled == [post("a"), post("b")]
