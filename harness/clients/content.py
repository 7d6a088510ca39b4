"""What messages say: drawn from the run's seed, so that encodings, sizes and blanks are all tried."""

import random
from typing import Literal

_SAMPLES = (
    "the quick brown fox",
    "Zażółć gęślą jaźń, ça va, größer",
    "消息传递：精确一次",
    "Привет, как дела?",
    "שלום עולם مرحبا بالعالم",
    "👩‍👩‍👧‍👦 🇩🇪 👍🏽 e\u0301 a\u0308 n\u0303",
    'it\'s "quoted" and `ticked` \\ and %s {0} ${x}',
    "<b>bold</b> <script>alert(1)</script> &amp; &lt;",
    "first line\nsecond line\r\nthird\tline",
    "'); DROP TABLE messages; --",
    "null",
    "42",
    "",
)
_LONG_CHARACTERS = 10_000
KINDS = len(_SAMPLES) + 1
"""How many messages have all kinds of bodies."""

_BLANKS = ("", "", "", " ", "\n", "\t ")


class Bodies:
    """Deals the bodies of one sender's messages: every kind once, in the seed's order, then all of them again."""

    def __init__(self, random_numbers: random.Random, kind: Literal["any", "plain"]) -> None:
        self._random = random_numbers
        self._kind = kind
        self._deck: list[str] = []

    def deal(self) -> str:
        """The next body: of any kind, or short ASCII for servers that trim or escape."""
        if self._kind == "plain":
            return f"message {self._random.randrange(1000)}"
        if not self._deck:
            long = "".join(self._random.choices("abcdefghij klmnop\u00e9\u4e2d", k=_LONG_CHARACTERS))
            self._deck = [*_SAMPLES, long]
            self._random.shuffle(self._deck)
        return self._deck.pop()

    def wrap(self, identity: str, text: str) -> str:
        """A message's content: its body with its identity at both ends, at times between blanks."""
        lead, trail = ("", "") if self._kind == "plain" else self._random.choices(_BLANKS, k=2)
        return f"{lead}{content(identity, text)}{trail}"


def content(identity: str, text: str) -> str:
    """A body with its message's identity at both ends."""
    return f"{identity} {text} {identity}" if text else f"{identity} {identity}"
