"""Which frames a source hands over when they come faster than they are taken.

latest     the newest; what was overtaken is dropped and counted
all        every one; the source waits
queue=N    every one, with N of them decoded ahead
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgecnn.channel import Keep

__all__ = ["ALL", "LATEST", "POLICIES", "Policy", "parse_policy"]

POLICIES = "latest, all or queue=N with N from 1 to 10000"


@dataclass(frozen=True)
class Policy:
    """A policy, as the channel between the reading thread and the user is made.

    Attributes:
        name: as the user writes it.
        size, keep: of the `edgecnn.channel.Channel`.
    """

    name: str
    size: int
    keep: Keep


LATEST = Policy("latest", 1, "newest")
ALL = Policy("all", 1, "all")


def parse_policy(text: str) -> Policy:
    """The policy of that name.

    Raises:
        ValueError: there is none; says which there are.
    """
    known = {"latest": LATEST, "all": ALL}
    if text in known:
        return known[text]
    match = re.fullmatch(r"queue=([1-9][0-9]{0,3}|10000)", text, re.ASCII)
    if match is None:
        raise ValueError(f"policy {text!r}: expected {POLICIES}")
    return Policy(text, int(match[1]), "all")
