"""The llm-gateway, put together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from schemas import subjects
from services.llm_gateway.agents import Agents
from services.llm_gateway.caller import Caller
from services.llm_gateway.flow.control import FlowControl
from services.llm_gateway.handlers import ModelCalls
from services.llm_gateway.models import Models
from services.llm_gateway.pipeline import Pipeline
from services.llm_gateway.readiness import readiness
from services.llm_gateway.telemetry import Observer
from services.llm_gateway.windows import Windows
from services.runtime.service import Runtime, Subscription

if TYPE_CHECKING:
    from services.runtime.ports import Unsubscribe


class LLMGateway:
    """The service."""

    def __init__(self, runtime: Runtime) -> None:
        self._bus = runtime.bus
        self._models = Models(runtime.secrets, runtime.bus.clock)
        self._flow = FlowControl(runtime.bus, runtime.resources, runtime.secrets, runtime.metrics)
        observer = Observer(runtime.metrics, runtime.traces, runtime.secrets)
        self._caller = Caller(runtime.bus.signals, runtime.bus.clock, observer, self._flow)
        windows = Windows()
        pipeline = Pipeline(
            runtime.bus,
            agents=Agents(runtime.resources, runtime.bus.clock),
            models=self._models,
            windows=windows,
            caller=self._caller,
        )
        self._calls = ModelCalls(runtime.bus, pipeline=pipeline, windows=windows, traces=runtime.traces)
        self._readiness = readiness(runtime.resources, self._models, runtime.secrets, runtime.bus.clock)
        self._subscriptions: list[Unsubscribe] = []

    def subscriptions(self) -> Sequence[Subscription]:
        """The model commands of every partition."""
        return [
            Subscription(subjects.LLM_GATEWAY, partition, self._calls.handle, self._calls.dead)
            for partition in range(self._bus.partitions)
        ]

    async def start(self) -> None:
        """Listen for tasks that stop and for watchers that join late, and keep the LLMs' statuses."""
        for subject, handler in (
            (subjects.STOP_ALL, self._caller.stop),
            (subjects.TEXT_ALL, self._caller.texts.answer),
        ):
            self._subscriptions.append(await self._bus.signals.subscribe(subject, handler))
        self._readiness.start()

    async def stop(self) -> None:
        """End both, and close all clients."""
        while self._subscriptions:
            await self._subscriptions.pop()()
        await self._readiness.stop()
        await self._flow.close()
        await self._models.close()


def build(runtime: Runtime) -> LLMGateway:
    """The llm-gateway on a runtime."""
    return LLMGateway(runtime)
