"""Contents: every kind is dealt, from the seed, with the identity at both ends."""

import random
import re
import unicodedata
from collections.abc import Callable

import pytest

from harness import history as h
from harness.clients.content import KINDS, Bodies, content

RUN = "0123abcd"
IDENTITY = f"{RUN}-alice-0001"
SEEDS = pytest.mark.parametrize("seed", range(5))


def dealt(seed: int, count: int = KINDS) -> list[str]:
    """The first bodies of a seed."""
    bodies = Bodies(random.Random(seed), "any")
    return [bodies.deal() for _ in range(count)]


@SEEDS
def test_one_round_deals_every_kind(seed: int) -> None:
    """Among as many bodies as there are kinds is each kind that breaks servers, whatever the seed."""
    bodies = dealt(seed)
    assert len(set(bodies)) == KINDS
    wanted: dict[str, Callable[[str], bool]] = {
        "plain ASCII": lambda text: text.isascii() and text.isprintable() and " " in text,
        "other letters": lambda text: "Привет" in text,
        "ideographs": lambda text: any("CJK" in unicodedata.name(character, "") for character in text[:9]),
        "right to left": lambda text: any(unicodedata.bidirectional(character) == "R" for character in text),
        "beyond the basic plane": lambda text: any(ord(character) > 0xFFFF for character in text),
        "joined characters": lambda text: "\u200d" in text,
        "combining characters": lambda text: any(unicodedata.combining(character) for character in text),
        "quotes": lambda text: "'" in text and '"' in text and "`" in text and "\\" in text,
        "markup": lambda text: "<script>" in text and "&amp;" in text,
        "line breaks": lambda text: "\n" in text and "\r\n" in text,
        "SQL": lambda text: "DROP TABLE" in text,
        "what JSON takes for a value": lambda text: text in ("null", "42"),
        "nothing": lambda text: text == "",
        "10 kB": lambda text: len(text) == 10_000 and len(text.encode()) > 10_000,
    }
    for kind, is_it in wanted.items():
        assert any(is_it(text) for text in bodies), kind


@SEEDS
def test_second_round_deals_every_kind_again(seed: int) -> None:
    """The bodies of a second round are those of the first but for the long one, in another order."""
    bodies = dealt(seed, 2 * KINDS)
    short = [{text for text in half if len(text) < 1000} for half in (bodies[:KINDS], bodies[KINDS:])]
    assert short[0] == short[1]
    assert len(short[0]) == KINDS - 1
    assert bodies[:KINDS] != bodies[KINDS:]


def test_same_seed_deals_the_same() -> None:
    """A seed says all about what is dealt and how it is wrapped, and another seed says something else."""

    def wrapped(seed: int) -> list[str]:
        bodies = Bodies(random.Random(seed), "any")
        return [bodies.wrap(IDENTITY, bodies.deal()) for _ in range(3 * KINDS)]

    assert wrapped(1) == wrapped(1)
    assert wrapped(1) != wrapped(2)


@SEEDS
def test_wrapping_keeps_body_and_identity_whole(seed: int) -> None:
    """Between the two identities stands the body, and before and behind them blanks at most."""
    bodies = Bodies(random.Random(seed), "any")
    for _ in range(4 * KINDS):
        body = bodies.deal()
        text = bodies.wrap(IDENTITY, body)
        inner = f" {body} " if body else " "
        assert re.fullmatch(rf"\s*{IDENTITY}{re.escape(inner)}{IDENTITY}\s*", text)
        assert h.identity_in(RUN, text) == IDENTITY
        assert h.identity_in(RUN, text[len(text) // 2 :]) == IDENTITY


def test_blanks_are_tried_at_either_end() -> None:
    """Some contents begin or end with a blank or a line break, which servers trim, and most do not."""
    bodies = Bodies(random.Random(1), "any")
    texts = [bodies.wrap(IDENTITY, "x") for _ in range(200)]
    assert {text[0] for text in texts} >= {" ", "\n", "\t", IDENTITY[0]}
    assert {text[-1] for text in texts} >= {" ", "\n", IDENTITY[-1]}
    assert sum(text == text.strip() for text in texts) > 20


@SEEDS
def test_plain_contents_are_short_ascii_without_outer_blanks(seed: int) -> None:
    """A server that trims, escapes or shortens leaves a plain content as it is."""
    bodies = Bodies(random.Random(seed), "plain")
    texts = [bodies.wrap(IDENTITY, bodies.deal()) for _ in range(50)]
    assert all(re.fullmatch(rf"{IDENTITY} message \d{{1,3}} {IDENTITY}", text) for text in texts)
    assert len(set(texts)) > 10


def test_own_text_is_wrapped_without_chance() -> None:
    """Texts of equal length make contents of equal length."""
    assert content(IDENTITY, "text") == f"{IDENTITY} text {IDENTITY}"
    assert content(IDENTITY, "") == f"{IDENTITY} {IDENTITY}"
