"""What human-contact counts of questions and answers."""

from __future__ import annotations

from services.human_contact.main import build as build_human_contact
from services.planner.main import build as build_planner
from services.runtime.replica import Build
from services.runtime.settings import Settings
from tests.support.people import People, channel
from tests.support.stage import on_stage, until
from tests.unit.planner.test_delegation import calls

BUILDS: dict[str, Build] = {"planner": build_planner, "human-contact": build_human_contact}


async def test_an_answer_is_counted_with_the_way_it_came_what_it_says_and_the_time_it_took() -> None:
    async with on_stage(BUILDS, settings=Settings(people_http_port=-1)) as (stage, replica):
        people = People(stage, {})
        await people.agent(channel())
        value = replica.metrics.registry.get_sample_value
        for name, action in (("yes", "accept"), ("no", "decline")):
            task = await stage.submit(name=name)
            await calls(stage, task, 1, ("box__write", {"path": "a"}))
            await people.answer(await people.asked(task), action=action)

        async def counted() -> bool:
            return value("holdfast_interaction_answer_seconds_count", {"kind": "approval"}) == 2

        await until(counted, "two answers were counted")
        for action in ("accept", "decline"):
            assert value("holdfast_interaction_answers_total", {"via": "request", "action": action}) == 1
        assert value("holdfast_interaction_answers_total", {"via": "expired", "action": "cancel"}) == 0
        waited_s = value("holdfast_interaction_answer_seconds_sum", {"kind": "approval"})
        assert waited_s is not None
        assert 0 <= waited_s < 10
