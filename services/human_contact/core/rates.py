"""How many requests are taken: a bucket of tokens for each remote address, and one for all of them. Pure."""

from __future__ import annotations

from collections import OrderedDict

import msgspec

REMOTES_MAX = 4096
"""Addresses that are remembered; the one that was silent longest is forgotten."""


class Rate(msgspec.Struct, frozen=True):
    """So many a second, and so many at once."""

    per_s: float
    burst: float


class Bucket:
    """Fills by itself, and gives one token to each request that may pass."""

    def __init__(self, rate: Rate, now_s: float) -> None:
        self._rate = rate
        self._tokens = rate.burst
        self._at_s = now_s

    def wait_s(self, now_s: float) -> float:
        """0 if there is a token, which is taken by `take`; otherwise how long until there is one."""
        grown = self._tokens + max(now_s - self._at_s, 0.0) * self._rate.per_s
        self._tokens, self._at_s = min(grown, self._rate.burst), max(now_s, self._at_s)
        return 0.0 if self._tokens >= 1 else (1 - self._tokens) / self._rate.per_s

    def take(self) -> None:
        """One token less."""
        self._tokens -= 1


class Rates:
    """The buckets of everybody."""

    def __init__(self, each: Rate, everybody: Rate, now_s: float) -> None:
        self._each = each
        self._all = Bucket(everybody, now_s)
        self._remotes: OrderedDict[str, Bucket] = OrderedDict()

    def wait_s(self, remote: str, now_s: float) -> float:
        """0 if a request may pass, which is then counted; otherwise how long to wait."""
        bucket = self._remotes.get(remote)
        if bucket is None:
            bucket = self._remotes[remote] = Bucket(self._each, now_s)
            if len(self._remotes) > REMOTES_MAX:
                self._remotes.popitem(last=False)
        self._remotes.move_to_end(remote)
        wait_s = max(bucket.wait_s(now_s), self._all.wait_s(now_s))
        if wait_s == 0:
            bucket.take()
            self._all.take()
        return wait_s
