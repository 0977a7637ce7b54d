"""A provider that limits our rate as real ones do: it counts what each request uses, and refuses what is too much.

    limited = LimitedProvider(server, tokens_per_minute=180_000, burst_s=10)

Its bucket holds what `burst_s` seconds bring, so it is stricter than one that counts by the minute, and shows within
seconds who sends more than is allowed.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter

from tests.support.provider_server import Behaviour, ProviderServer, Recorded, Reply, Stream
from tests.support.provider_wire import chat_error, chat_stream

INPUT_TOKENS = 40
OUTPUT_TOKENS = (20, 100)
"""Of each answer: at least, at most."""


class LimitedProvider:
    """What it has counted."""

    def __init__(self, server: ProviderServer, *, tokens_per_minute: int, burst_s: float, seed: int = 1) -> None:
        self.rate = tokens_per_minute / 60
        self.answered: list[tuple[float, int]] = []
        """When, on the event loop's clock, and how many tokens."""
        self.refused = 0
        self.by_text: Counter[str] = Counter()
        """How often it was asked what."""
        self._burst = self.rate * burst_s
        self._held = self._burst
        self._at = 0.0
        self._random = random.Random(seed)
        server.choose = self.choose

    def choose(self, request: Recorded) -> Behaviour:
        """Answer a request, or refuse it."""
        now = asyncio.get_running_loop().time()
        self._held = min(self._burst, self._held + (now - self._at) * self.rate)
        self._at = now
        output = self._random.randint(*OUTPUT_TOKENS)
        tokens = INPUT_TOKENS + output
        self.by_text[str(request.body["messages"][-1]["content"])] += 1
        if tokens > self._held:
            self.refused += 1
            return Reply(429, chat_error("Rate limit reached", kind="tokens", code="rate_limit_exceeded"))
        self._held -= tokens
        self.answered.append((now, tokens))
        usage = {"prompt_tokens": INPUT_TOKENS, "completion_tokens": output, "total_tokens": tokens}
        return Stream(chat_stream("ok", usage=usage))

    def used_share(self, begin: float, end: float) -> float:
        """What was used of what was allowed in that time."""
        return sum(tokens for at, tokens in self.answered if begin <= at < end) / (self.rate * (end - begin))
