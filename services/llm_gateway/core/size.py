"""How large a request is, and how large it may be for its model."""

from __future__ import annotations

import msgspec

from schemas.resources import LLM, ContextPolicy
from services.llm_gateway.core.compaction import Goal
from services.llm_gateway.core.tokens import HUNDREDTHS, ROOM_DEFAULT, SCALE_WEIGHT_MIN, scale_of, tokens_of
from services.llm_gateway.core.window import Counted

ROOM_SHARE = 8
"""Where an LLM sets no `maxTokens`, an answer is expected to take this part of its context at most."""
WANTED = 0.7
"""What a conversation is made shorter to, as a part of what it may be: so that it is not done again every turn."""
REFUSED_LIMIT = 0.8
"""A conversation that the provider refused must become this part of what it was, whatever was estimated."""
REFUSED_WANTED = 0.5


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """The size of one request. Weights are those of `core/tokens.py`."""

    conversation: int
    """Weight of the messages."""
    beside: int
    """Weight of the tools and the response format."""
    scale: float
    room: int
    """Tokens kept free for the answer."""
    context_tokens: int | None
    """What the model's context holds; None: nobody said."""
    threshold: float
    unseen: int = 0
    """Tokens that the provider counted beside what it was sent."""

    @property
    def tokens(self) -> int:
        """What goes to the model, estimated."""
        return self.unseen + tokens_of(self.conversation + self.beside, self.scale)

    @property
    def is_too_large(self) -> bool:
        """Whether question and answer would fill more of the context than they may."""
        limit = self._limit_tokens
        return limit is not None and self.tokens + self.room > limit

    @property
    def words(self) -> str:
        """Its numbers, for people."""
        filled = f"about {self.tokens:,} tokens, with {self.room:,} more for the answer"
        if self.context_tokens is None:
            return filled
        return f"{filled}, of which {self.threshold:g} of {self.context_tokens:,} (contextTokens) may be filled"

    def in_tokens(self, weight: int) -> int:
        """The tokens of some messages of this weight."""
        return tokens_of(weight, self.scale)

    def in_weight(self, tokens: int) -> int:
        """The weight of so many tokens."""
        return int(tokens * HUNDREDTHS / self.scale)

    def goal(self) -> Goal:
        """How short the conversation must become to fit."""
        limit = self._limit
        return Goal(wanted=int(limit * WANTED), limit=limit)

    def goal_when_refused(self) -> Goal:
        """How short the conversation must become for a provider that found it too long as it is."""
        limit = min(self._limit, int(self.conversation * REFUSED_LIMIT))
        return Goal(wanted=min(int(limit * WANTED), int(self.conversation * REFUSED_WANTED)), limit=limit)

    @property
    def _limit_tokens(self) -> float | None:
        return None if self.context_tokens is None else self.threshold * self.context_tokens

    @property
    def _limit(self) -> int:
        """Weight of the messages at most."""
        limit = self._limit_tokens
        return (
            self.conversation if limit is None else self.in_weight(int(limit) - self.room - self.unseen) - self.beside
        )


def size_of(
    llm: LLM, policy: ContextPolicy, *, conversation: int, beside: int, scale: float, counted: Counted | None = None
) -> Size:
    """The size of a request for an LLM: by what it counted in this conversation, or else by `scale`."""
    given = llm.spec.parameters
    room = given.max_tokens or ROOM_DEFAULT
    if given.context_tokens is not None:
        share = given.context_tokens // (2 if given.max_tokens else ROOM_SHARE)
        room = min(room, share)
    unseen = 0
    if counted is not None and counted.llm == llm.metadata.name:
        if counted.weight + beside >= SCALE_WEIGHT_MIN:
            scale = scale_of(counted.tokens, counted.weight + beside)
        unseen = max(counted.tokens - tokens_of(counted.weight + beside, scale), 0)
    return Size(
        conversation=conversation,
        beside=beside,
        scale=scale,
        room=room,
        context_tokens=given.context_tokens,
        threshold=policy.threshold,
        unseen=unseen,
    )
