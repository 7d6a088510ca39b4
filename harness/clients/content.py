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
_BLANKS = ("", "", "", " ", "\n", "\t ")


def body(random_numbers: random.Random, kind: Literal["any", "plain"]) -> str:
    """A body of a message: of any kind, or short ASCII for servers that trim or escape."""
    if kind == "plain":
        return f"message {random_numbers.randrange(1000)}"
    choice = random_numbers.randrange(len(_SAMPLES) + 1)
    if choice == len(_SAMPLES):
        return "".join(random_numbers.choices("abcdefghij klmnop\u00e9\u4e2d", k=_LONG_CHARACTERS))
    return _SAMPLES[choice]


def content(identity: str, text: str, random_numbers: random.Random, kind: Literal["any", "plain"]) -> str:
    """A message's content: its body with its identity at both ends, at times between blanks."""
    lead, trail = ("", "") if kind == "plain" else random_numbers.choices(_BLANKS, k=2)
    return f"{lead}{identity} {text} {identity}{trail}" if text else f"{lead}{identity} {identity}{trail}"
