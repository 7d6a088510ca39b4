"""The kinds of clients that scenarios can run with: which program each is, and which ways of sending it knows."""

from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import msgspec

from harness import history as h

_HERE = Path(__file__).parent
_TUTORIAL: tuple[h.Policy, ...] = ("tutorial", "tutorial-untimed")


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of client.

    `command` is that of its driver, with the placeholders of a target description; None is the harness's own client,
    within its own process but where a scenario kills it.
    """

    name: str
    policies: tuple[h.Policy, ...]
    command: tuple[str, ...] | None = None
    env: Mapping[str, str] = {}

    @property
    def needs_node(self) -> bool:
        """Whether it runs on Node."""
        return "{node_modules}" in self.env.values()


KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            name="python",
            policies=tuple(policy for policy in get_args(h.Policy) if policy not in _TUTORIAL),
        ),
        Kind(
            name="node",
            policies=get_args(h.Policy),
            command=("node", str(_HERE / "node" / "driver.js")),
            env={"NODE_PATH": "{node_modules}"},
        ),
        Kind(
            name="python-stock",
            policies=("fire-and-forget", "once", "resend"),
            command=("{python}", "-m", "harness.clients.stock"),
        ),
    )
}
