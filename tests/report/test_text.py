"""Hostile text made safe to show."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.report import text


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("plain", "plain"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\u202eevil", "\\u202eevil"),
        ("nul\0", "nul\\x00"),
        ("a\nb\tc", "a\nb\tc"),
        ("\ud800", "\\ud800"),
        ("\U0001f469\u200d\U0001f467 שלום", "\U0001f469\u200d\U0001f467 שלום"),
    ],
)
def test_what_cannot_be_seen_is_spelled_out(hostile: str, shown: str) -> None:
    """Control characters and bidirectional overrides become escapes; letters of any script and emoji stay."""
    assert text.visible(hostile) == shown


@given(st.text())
def test_one_line_is_one_printable_line(hostile: str) -> None:
    """No text breaks a line of a terminal or sends it an escape sequence."""
    shown = text.one_line(hostile)
    assert len(shown.splitlines()) <= 1
    assert "\x1b" not in shown


def test_code_between_backticks_is_code() -> None:
    """A sentence of our own has its code marked, and is escaped all the same."""
    assert text.in_code("`a < b` is & `c`") == "<code>a &lt; b</code> is &amp; <code>c</code>"
    assert text.in_code("plain") == "plain"


def test_a_body_is_cut_and_says_how_long_it_is() -> None:
    """A body shows its first 200 characters and its length."""
    assert text.body("x" * 10_000) == "x" * 200 + "<span class='cut'>… of 10,000 characters</span>"
    assert text.body("x" * 200) == "x" * 200


def test_a_body_is_escaped_and_boxes_what_cannot_be_seen() -> None:
    """Markup in a body is text; a line break is shown as one."""
    assert text.body("<b>\n") == "&lt;b&gt;<span class='hidden-character'>\\n</span>"


def test_an_empty_body_is_said_to_be_empty() -> None:
    """An empty body is not mistaken for a gap in the report."""
    assert "(empty)" in text.body("")


@given(st.text(st.characters(exclude_categories=[])))
def test_xml_text_holds_only_what_xml_can_carry(hostile: str) -> None:
    """Every character that XML 1.0 cannot carry is replaced, the others stay."""
    for before, after in zip(hostile, text.xml(hostile), strict=True):
        assert after in (before, "\ufffd")
        assert after in "\t\n\r" or (" " <= after <= "\ufffd" and not "\ud800" <= after <= "\udfff") or after > "\uffff"


def test_consecutive_messages_are_compressed_to_ranges() -> None:
    """Identities are listed by sender as ranges, and none is left out."""
    messages = ["r-al-0023", "r-al-0025", "r-al-0024", "r-bo-0001", "r-al-0027", "the server", "r-al-0023"]
    assert text.ranges(messages) == ["the server", "r-al-0023..0025", "r-al-0027", "r-bo-0001"]


def test_anchors_differ_where_ids_differ() -> None:
    """The fragment of a scenario is safe in an attribute and a URL, and its own."""
    assert text.anchor("lock-long-python-polling") == "scenario-lock-long-python-polling"
    assert text.anchor('a"b') == "scenario-a_22b" != text.anchor("a_22b")
