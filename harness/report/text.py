"""Text that others wrote (message bodies, names, ids, logs), made safe and honest to show."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable

from markupsafe import Markup, escape

BODY_CHARACTERS = 200
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_ZERO_WIDTH_JOINER = "\u200d"  # joins emoji; alone it hides nothing
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NUMBERED = re.compile(r"(.*-)(\d+)")


def _is_hidden(character: str) -> bool:
    return unicodedata.category(character) in _INVISIBLE and character != _ZERO_WIDTH_JOINER


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def visible(text: str, keep: str = "\n\t") -> str:
    r"""`text` with control characters and bidirectional overrides spelled out (`\x1b`, `\u202e`), but for `keep`."""
    if text.isascii() and text.isprintable():
        return text
    return text.translate({ord(c): _escaped(c) for c in set(text) - set(keep) if _is_hidden(c)})


def one_line(text: str) -> str:
    """`text` as it can stand in one line of a terminal."""
    return visible(text, keep="")


def body(text: str) -> Markup:
    """A message's body for HTML: the first 200 characters, what cannot be seen boxed, and how long it is if cut."""
    if not text:
        return Markup("<span class='cut'>(empty)</span>")
    shown = Markup("").join(
        Markup("<span class='hidden-character'>{}</span>").format(_escaped(c)) if _is_hidden(c) else escape(c)
        for c in text[:BODY_CHARACTERS]
    )
    if len(text) > BODY_CHARACTERS:
        shown += Markup("<span class='cut'>… of {} characters</span>").format(f"{len(text):,}")
    return shown


def in_code(text: str) -> Markup:
    """A sentence of our own for HTML: what stands between backticks is code."""
    parts = text.split("`")
    code = Markup("<code>{}</code>")
    return Markup("").join(code.format(part) if number % 2 else escape(part) for number, part in enumerate(parts))


def middle(text: str, limit: int) -> str:
    """`text`, its middle cut if it is longer than `limit`: two bodies mostly differ at their ends."""
    if len(text) <= limit:
        return text
    head = (limit - 1) * 2 // 3
    return f"{text[:head]}…{text[head + 1 - limit :]}"


def xml(text: str) -> str:
    """`text` with what XML 1.0 cannot carry replaced by U+FFFD."""
    return _NOT_XML.sub("\ufffd", text)


def anchor(scenario: str) -> str:
    """The fragment of a scenario's section in index.html: letters, digits, hyphens and underscores only."""
    return "scenario-" + re.sub(r"[^A-Za-z0-9-]", lambda found: f"_{ord(found.group()):x}", scenario)


def ranges(messages: Iterable[str]) -> list[str]:
    """Identities with their numbers compressed: `run-alice-0023..0029`; none is left out."""
    numbers: dict[str, list[str]] = defaultdict(list)
    shown = []
    for message in dict.fromkeys(messages):
        if found := _NUMBERED.fullmatch(message):
            numbers[found[1]].append(found[2])
        else:
            shown.append(message)
    for prefix, digits in numbers.items():
        shown += [prefix + span for span in _spans(sorted(digits, key=int))]
    return shown


def _spans(digits: list[str]) -> list[str]:
    spans: list[list[str]] = []
    for number in digits:
        if spans and int(number) == int(spans[-1][-1]) + 1:
            spans[-1].append(number)
        else:
            spans.append([number])
    return [span[0] if len(span) == 1 else f"{span[0]}..{span[-1]}" for span in spans]


def times(count: int, noun: str, plural: str | None = None) -> str:
    """`1 scenario`, `2 scenarios`."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"
