"""One simulation: the real services as processes that die and come again, and clients who want something of them.

world = World(seed)
world.run()             until every task has ended and everything is acknowledged, or for ever seems too long
world.history           what the checkers look at
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Coroutine, Mapping
from contextvars import Context
from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec.structs import replace

from schemas import subjects
from schemas.interactions import InteractionRequested
from schemas.notifications import NotificationPending, decode_notification
from schemas.requests import Accepted, CancelTask, DeleteTask, Rejected, Reply, SubmitTask
from schemas.resources import Resource
from schemas.subjects import TaskSubjects
from schemas.task import Cancelled, Failed, FinalAnswer, State, decode_state
from schemas.wire import decode, decoder_of, encode
from services.runtime.errors import RetryLater, Unavailable
from services.runtime.memory.bus import MemoryBus
from services.runtime.memory.clock import Alarm, LoopClock
from services.runtime.memory.consumers import DurableConsumer
from services.runtime.memory.server import MemoryServer
from services.runtime.ports import Entry
from services.runtime.replica import Build, Replica
from services.runtime.settings import Settings
from tests.chaos.simulated.faults import Faults, Rates, draw_rates
from tests.chaos.simulated.history import History
from tests.chaos.simulated.loop import Mortal, VirtualLoop, as_process
from tests.chaos.simulated.network import SimulatedBus
from tests.chaos.simulated.people import People
from tests.chaos.simulated.receivers import ENVIRONMENT, GIVE_UP_S, Mood
from tests.chaos.simulated.scenario import NAMESPACE, Asked, Scenario, Upset, draw_scenario
from tests.chaos.simulated.speakers import Speakers

START = datetime(2030, 1, 1, tzinfo=UTC)
CONSUMERS = (
    subjects.PLANNER,
    subjects.LLM_GATEWAY,
    subjects.TOOL_EXECUTOR,
    subjects.HUMAN_CONTACT,
    subjects.HUMAN_CONTACT_ANSWERS,
    subjects.NOTIFIER,
)
ENDED = (FinalAnswer, Failed, Cancelled)
PATIENCE_S = 1800.0
"""Virtual time after the last fault in which everything must have ended: longer than every backoff together."""
AT_ONCE_MAX = 20_000
"""Calls at one moment of virtual time; no honest amount of work comes near."""
STEP_S = 0.25
DRAIN_S = 5.0
DOWN_MAX_S = 3.0
NOTICED_S = 30.0

decode_reply: Callable[[bytes], Reply] = decoder_of(Reply)


class WorldClock(LoopClock):
    """Virtual time. What is called back belongs to the server, not to the process that asked for it."""

    def __init__(self, skew_s: float = 0.0) -> None:
        super().__init__(START + timedelta(seconds=skew_s))
        self._zero = 0.0

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Alarm:
        return asyncio.get_running_loop().call_later(delay_s, callback, context=Context())


class Process(Mortal):
    """A replica of a service, until it dies."""

    def __init__(self, world: World, service: str, number: int) -> None:
        super().__init__(f"{service}-{number}")
        self.world = world
        self.service = service
        self.replica: Replica | None = None
        self.bus: MemoryBus | None = None
        self.context = as_process(self)

    def spawn(self, coroutine: Coroutine[Any, Any, Any], *, name: str) -> asyncio.Task[Any]:
        """Run something in this process."""
        return self.world.loop.create_task(coroutine, name=name, context=self.context)

    async def pause(self, call: str, subject: str) -> None:
        """Whatever may go wrong at a call."""
        faults = self.world.faults
        if faults.crash():
            self.world.note(self.name, "CRASH", subject, call)
            self.world.died(self)
            await asyncio.get_running_loop().create_future()
        await asyncio.sleep(faults.wait_s())
        if faults.unavailable(call):
            self.world.note(self.name, "UNAVAILABLE", subject, call)
            raise Unavailable("the bus is away", after_s=0.3)
        self.world.note(self.name, call, subject, "")


class World:
    """One simulation."""

    def __init__(
        self, seed: int, builds: Mapping[str, Build], *, rates: Rates | None = None, mood: Mood | None = None
    ) -> None:
        rng = random.Random(seed)
        self.seed = seed
        self.scenario: Scenario = draw_scenario(rng)
        if mood is not None:
            receivers = tuple(replace(one, mood=mood) for one in self.scenario.receivers)
            self.scenario = replace(self.scenario, receivers=receivers)
        self.receivers_rng = random.Random(seed)
        self.faults = Faults(rng, rates or draw_rates(rng))
        self.loop = VirtualLoop()
        self.clock = WorldClock()
        self.server = MemoryServer(clock=self.clock, partitions=self.scenario.partitions)
        self.history = History(self.server.streams)
        self.processes: list[Process] = []
        self.problems: list[str] = []
        self.accepted: set[str] = set()
        self.removed: set[str] = set()
        self.repairs: list[str] = []
        """What the reconcilers had to repair."""
        self.trace: list[str] = []
        self._builds = builds
        self._client = MemoryBus(self.server)
        for stream in self.server.tasks:
            stream.observe(self._look_at_questions)
        self.speakers = Speakers(self)
        self.people = People(self)
        self._started = 0
        self._now_s = 0.0
        self._now_lines = 0

    # --- what others call ---

    def note(self, who: str, what: str, subject: str, detail: str) -> None:
        """A line of the trace."""
        self._now_lines = self._now_lines + 1 if self.loop.time() == self._now_s else 1
        self._now_s = self.loop.time()
        if self._now_lines == AT_ONCE_MAX:
            self.problems.append(f"{AT_ONCE_MAX} calls at the same moment: somebody goes round in circles")
            self.loop.stop()
        self.trace.append(f"{self.loop.time():10.4f} {who:18} {what:22} {subject} {detail}".rstrip())

    def after(self, delay_s: float, callback: Callable[[], None]) -> None:
        """Something happens outside, whoever is alive."""
        self.loop.call_later(delay_s, callback, context=Context())

    def died(self, process: Process) -> None:
        """A process is dead; another one comes in its place."""
        process.alive = False
        self.processes.remove(process)
        self.repaired(process)
        if process.bus is not None:  # a killed process is noticed at once, a lost machine is not
            self.after(self.faults.rng.choice((0.0, 0.0, NOTICED_S)), process.bus.cut)
        self.after(DOWN_MAX_S * self.faults.rng.random(), lambda: self._start(process.service))

    def state(self, task: TaskSubjects) -> State | None:
        """A task's newest state."""
        entry = self.server.tasks[task.partition].newest(task.state)
        return decode_state(entry.data) if entry is not None else None

    def repaired(self, process: Process) -> None:
        """Note what a process's reconciler has repaired."""
        if process.replica is None:
            return
        for family in process.replica.metrics.repaired.collect():
            for sample in family.samples:
                if sample.name.endswith("_total") and sample.value:
                    self.repairs.append(f"{process.name} repaired {sample.value:g} {sample.labels['what']}")

    def run(self) -> None:
        """Let it happen."""
        try:
            self.loop.run_until_complete(self._run())
        except RuntimeError:
            if not self.problems:
                raise
        finally:
            self.problems += self.loop.problems
            self.loop.tear_down()

    # --- the course of things ---

    async def _run(self) -> None:
        for service, count in self.scenario.replicas.items():
            for _ in range(count):
                self._start(service)
        for resource in self.scenario.resources:
            await self._apply(resource)
        clients = [
            *(self._spawn(self._ask(asked)) for asked in self.scenario.tasks),
            *(self._spawn(self._upset(upset)) for upset in self.scenario.upsets),
            *(self._spawn(self.speakers.say(say)) for say in self.scenario.says),
            self._spawn(self._disturb()),
        ]
        await asyncio.gather(*clients)
        self.faults.calm = True
        self.note("world", "CALM", "", "")
        end_s = self.loop.time() + PATIENCE_S
        await self._until(lambda: self._is_over() or self.loop.time() > end_s)
        if self._is_over():
            await asyncio.gather(*(self._remove(asked.name) for asked in self.scenario.tasks if asked.removed))
            await self._until(lambda: self._is_over() or self.loop.time() > end_s)
        for process in self.processes:
            self.repaired(process)

    def _is_over(self) -> bool:
        ended = all(
            isinstance(self.state(self.scenario.subjects(task)), ENDED) for task in self.accepted - self.removed
        )
        return ended and not self._notifying() and not any(consumer.unfinished for consumer in self._consumers())

    def _notifying(self) -> bool:
        """Whether somebody is still to be told something."""
        entries = (entry for stream in self.server.tasks for entry in stream.last([f"{subjects.PREFIX}.*.*.ntf.>"]))
        return any(isinstance(decode_notification(entry.data), NotificationPending) for entry in entries)

    def _consumers(self) -> list[DurableConsumer]:
        partitions = range(self.scenario.partitions)
        return [
            *(self.server.consumer(name, partition) for name in CONSUMERS for partition in partitions),
            self.server.consumer(subjects.PLANNER_REQUESTS, None),
            self.server.consumer(subjects.PLANNER_TIMERS, None),
            self.server.consumer(subjects.HUMAN_CONTACT_TIMERS, None),
            self.server.consumer(subjects.NOTIFIER_TIMERS, None),
        ]

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():  # noqa: ASYNC110 - the time is virtual, so that waiting costs nothing
            await asyncio.sleep(STEP_S)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self.loop.create_task(coroutine)

    async def _disturb(self) -> None:
        """Deliver again what is in hand, and stop processes in an orderly way, now and then."""
        rng = self.faults.rng
        while self.loop.time() < self.scenario.calm_at_s:
            await asyncio.sleep(0.5)
            if self.faults.happens(self.faults.rates.duplicated / 2):
                consumer = rng.choice(self._consumers())
                if held := consumer.held:
                    consumer.redeliver(rng.choice(held))
            if self.faults.happens(0.01) and self.processes:
                self._spawn(self._restart(rng.choice(self.processes)))

    async def _restart(self, process: Process) -> None:
        """SIGTERM."""
        if process.replica is None or not process.replica.ready:
            return
        self.note("world", "STOP", process.name, "")
        stopping = process.spawn(process.replica.stop(), name="stop")
        await asyncio.wait({stopping}, timeout=DRAIN_S + 2)
        if process.alive:
            self.died(process)

    def _start(self, service: str) -> None:
        self._started += 1
        process = Process(self, service, self._started)
        self.processes.append(process)
        self.note("world", "START", process.name, "")
        process.spawn(self._live(process), name=process.name)

    async def _live(self, process: Process) -> None:
        skew_s = self.scenario.skew_s * (2 * self.faults.rng.random() - 1)
        bus = SimulatedBus(
            self.server,
            commit=self.scenario.commit,
            pause=process.pause,
            clock=WorldClock(skew_s) if skew_s else self.clock,
            faults=self.faults,
            history=self.history,
        )
        process.bus = bus
        settings = Settings(
            partitions=self.scenario.partitions,
            replica=process.name,
            slots=self.scenario.slots,
            reconcile_s=self.scenario.reconcile_s,
            drain_s=DRAIN_S,
            people_http_port=-1,
            notify_give_up_s=GIVE_UP_S,
        )
        replica = process.replica = Replica(
            bus, settings, {process.service: self._builds[process.service]}, ENVIRONMENT
        )
        try:
            await replica.start()
            await replica.ended.wait()
            self.problems.append(f"{process.name} ended by itself: {replica.failed}")
        except RetryLater:
            self.note(process.name, "could not start", "", "")
        self.died(process)

    # --- clients ---

    async def _apply(self, resource: Resource) -> None:
        kind, meta = type(resource).__name__, resource.metadata
        await self._client.resources.put(subjects.spec_key(kind, meta.namespace, meta.name), encode(resource))

    async def _upset(self, upset: Upset) -> None:
        await asyncio.sleep(upset.at_s)
        kind, meta = type(upset.resource).__name__, upset.resource.metadata
        self.note("client", "delete", f"{kind}/{meta.name}", "")
        await self._client.resources.delete(subjects.spec_key(kind, meta.namespace, meta.name))
        await asyncio.sleep(upset.for_s)
        self.note("client", "apply", f"{kind}/{meta.name}", "")
        await self._apply(upset.resource)

    async def _ask(self, asked: Asked) -> None:
        await asyncio.sleep(asked.at_s)
        request = SubmitTask(
            agent_name=asked.agent,
            name=asked.name,
            user_message=asked.name if asked.context_window is None else None,
            context_window=asked.context_window,
            limits=asked.limits,
            response_url=asked.response_url,
        )
        reply = await self.request("submit", encode(request), asked.name, by_request=asked.by_request)
        if isinstance(reply, Rejected):
            self.problems.append(f"submit was refused: {reply}")
        self.accepted.add(asked.name)
        task = self.scenario.subjects(asked.name)
        if asked.cancel_at_s is not None:
            await asyncio.sleep(max(asked.cancel_at_s - self.loop.time(), 0.0))
            await self._until(lambda: self.server.tasks[task.partition].newest(task.submitted) is not None)
            data = encode(CancelTask(task=asked.name, reason="changed my mind"))
            reply = await self.request("cancel", data, f"cancel-{asked.name}", by_request=asked.by_request)
            if isinstance(reply, Rejected):
                self.problems.append(f"cancel was refused: {reply}")

    def _look_at_questions(self, entry: Entry) -> None:
        """People see a question."""
        if entry.subject.endswith(".0.asked"):
            self.people.see(decode(entry.data, InteractionRequested))

    async def _remove(self, thread: str) -> None:
        """Remove the tasks of a thread, from its end."""
        for task in reversed(self.speakers.threads[thread]):
            reply = await self.request("delete", encode(DeleteTask(task=task)), f"delete-{task}", by_request=True)
            if not isinstance(reply, Accepted):
                self.problems.append(f"delete was refused: {reply}")
            self.removed.add(task)

    async def request(self, verb: str, data: bytes, message_id: str, *, by_request: bool) -> Reply | None:
        """Ask for something until it is taken, each time with more patience; the reply, if one was asked for."""
        headers = {subjects.MSG_ID: message_id} if message_id else {}
        if not by_request:
            await self._client.signals.store(f"{subjects.PREFIX}.tasks.{NAMESPACE}.{verb}", data, headers)
            return None
        for tried in itertools.count():
            patience_s = min(3.0 * 1.5**tried, 60.0)
            try:
                answer = await self._client.signals.request(
                    subjects.ask(NAMESPACE, verb), data, headers, timeout_s=patience_s
                )
            except Unavailable:
                await asyncio.sleep(patience_s / 6)
                continue
            reply = decode_reply(answer.data)
            if isinstance(reply, Rejected) and reply.code == "unavailable":
                continue
            return reply
        raise AssertionError("nobody asks for ever")
