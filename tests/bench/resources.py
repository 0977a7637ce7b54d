"""What the measurements run on: scripted models without delay, agents, and the server of tools that do nothing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

from schemas.resources import (
    LLM,
    Agent,
    AgentSpec,
    LLMSpec,
    MCPServer,
    MCPServerSpec,
    Metadata,
    Ref,
    ScriptedCall,
    ScriptedOptions,
    ScriptedReply,
    ScriptedRule,
    ServerRef,
)

TOOLS = MCPServer(
    metadata=Metadata(name="bench"),
    spec=MCPServerSpec(
        transport="stdio",
        command=sys.executable,
        args=(str(Path(__file__).with_name("noop_tool.py")),),
        concurrency=64,
    ),
)
NOOP = ScriptedCall(tool="bench__noop")


class Script(NamedTuple):
    """An agent whose model calls one tool a turn and answers at the last."""

    llm: LLM
    agent: Agent

    @property
    def name(self) -> str:
        return self.agent.metadata.name


def script(name: str, *, turns: int, call: ScriptedCall = NOOP, text: str = "", delay_s: float = 0.0) -> Script:
    """The tool `call` in every turn but the last of `turns`, with `text` beside it."""
    options = ScriptedOptions(
        rules=(ScriptedRule(reply=ScriptedReply(text="done"), turn=turns),),
        transcript=(ScriptedReply(text=text, calls=(call,), delay_s=delay_s),),
    )
    return Script(
        LLM(metadata=Metadata(name=name), spec=LLMSpec(provider="scripted", scripted=options)),
        Agent(
            metadata=Metadata(name=name),
            spec=AgentSpec(llm_ref=Ref(name=name), system="You are measured.", mcp_servers=(ServerRef(name="bench"),)),
        ),
    )
