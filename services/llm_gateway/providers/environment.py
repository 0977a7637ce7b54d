"""The process's environment, kept from the SDKs.

They take addresses, accounts, headers, tokens and the level of their logs from variables. Those belong to whoever
started the process, and an LLM to a namespace: nothing of the one may reach the other's provider, and no conversation
may reach the process's output. What stays is the network's own: proxies and certificates.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager

LOG_LEVELS = ("OPENAI_LOG", "ANTHROPIC_LOG")
"""Read when an SDK is imported."""
PREFIXES = ("OPENAI_", "AZURE_OPENAI_", "ANTHROPIC_")
"""Of all variables that are read when a client is made."""


@contextmanager
def hidden(*prefixes: str) -> Generator[None]:
    """The variables that begin so are not there in the block. It must not wait: the environment is the process's."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(prefixes)}
    for name in kept:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(kept)
