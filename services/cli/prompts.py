"""Asking the person at the terminal what people are asked: by numbers, never by a default.

Nothing is decided by an empty line or by Ctrl-D: they lead back, or leave the question to others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar, cast

import msgspec

from schemas.events import ApprovalScope
from schemas.interactions import AnswerInteraction, InteractionAction, InteractionRequested
from schemas.visible import visible
from services.cli.question_words import FORMS, SCOPES, Field, Form, field_text, form_of, words_of
from services.cli.text import one_line

T = TypeVar("T")
WIDTH = 60
ONCE: ApprovalScope = "once"
NO_SECRETS = "The words are its server's: never type a password or a key here."


class Person(Protocol):
    """Somebody who reads and types."""

    def say(self, text: str) -> None:
        """Show a line."""
        ...

    def forget(self) -> None:
        """What they typed before now was for something else."""
        ...

    async def line(self, prompt: str) -> str:
        """What they type; raises `EOFError` if they do not want to."""
        ...

    async def edit(self, text: str) -> str | None:
        """The text as they leave it in an editor; None without one."""
        ...


class Back(Exception):
    """The person thought better of it: show the choices again."""


async def answered_by(person: Person, asked: InteractionRequested, by: str) -> AnswerInteraction | None:
    """The answer of a person who was just shown a question; None if they leave it to others."""
    while True:
        try:
            if asked.kind not in FORMS:
                return await _judged(person, asked, by)
            return await _filled_in(person, asked, by)
        except Back:
            continue
        except EOFError:
            return None


async def _judged(person: Person, asked: InteractionRequested, by: str) -> AnswerInteraction | None:
    words = words_of(asked)
    tool = one_line(visible(asked.tool), WIDTH)
    options: list[tuple[str, str]] = [("accept", words.accept)]
    if asked.kind == "approval":
        options += [(scope, f"approve {tool} {how}") for scope, how in SCOPES.items()]
        options += [("edit", "change the arguments, then approve")]
    reads = ", with a comment for the model" if asked.kind == "approval" else ""
    options += [("decline", f"{words.decline}{reads}"), ("leave", "leave it to others")]
    chosen = await _choose(person, options, {"y": "accept", "yes": "accept", "n": "decline", "no": "decline"})
    match chosen:
        case "leave":
            return None
        case "accept":
            return _answer(asked, by, "accept")
        case "edit":
            return _answer(asked, by, "accept", arguments=await _edited(person, asked))
        case "decline":
            comment = await person.line("Why? (Enter: no comment) ")
            return _answer(asked, by, "decline", comment=comment.strip())
        case _:
            return _answer(asked, by, "accept", scope=cast("ApprovalScope", chosen))


async def _edited(person: Person, asked: InteractionRequested) -> str:
    """Other arguments, shown once more before they count."""
    shown = _pretty(asked.arguments)
    text = await person.edit(shown)
    if text is None:
        text = await person.line("The arguments instead, as a JSON object on one line (Enter: go back): ")
    text = text.strip()
    if not text or text in (shown.strip(), asked.arguments.strip()):
        person.say("The arguments are as they were; nothing is sent.")
        raise Back
    try:
        msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        person.say(f"That is no JSON object: {visible(str(error))}")
        raise Back from error
    person.say("The call would be made with these arguments:")
    for line in visible(text).split("\n"):
        person.say(f"  {line}")
    if (await person.line("Approve it so? (yes or no) ")).strip().lower() not in ("y", "yes"):
        raise Back
    return text


def _pretty(arguments: str) -> str:
    try:
        return msgspec.json.format(arguments or "{}", indent=2)
    except (msgspec.DecodeError, RecursionError):
        return arguments


async def _filled_in(person: Person, asked: InteractionRequested, by: str) -> AnswerInteraction | None:
    say_no = [("decline", "say no"), ("leave", "leave it to others")]
    if asked.kind == "question":
        choices = [(f"={choice}", one_line(visible(choice))) for choice in asked.choices]
        chosen = await _choose(person, [*(choices or [("answer", "answer")]), *say_no])
        if chosen == "answer":
            answer = await _wanted(person, "Your answer: ")
            return _answer(asked, by, "accept", content={"answer": answer})
        if chosen.startswith("="):
            return _answer(asked, by, "accept", content={"answer": chosen[1:]})
    else:
        accept = "fill it in" if asked.schema is not None else "yes, I go there" if asked.url else "yes"
        chosen = await _choose(person, [("accept", accept), *say_no])
        if chosen == "accept":
            content = await _content(person, asked.schema) if asked.schema is not None else None
            return _answer(asked, by, "accept", content=content)
    return _answer(asked, by, "decline") if chosen == "decline" else None


async def _content(person: Person, schema: dict[str, Any]) -> dict[str, Any]:
    person.say(NO_SECRETS)
    form = form_of(schema)
    if form is None:
        text = await _wanted(person, "A JSON object that fits, on one line: ")
        try:
            content: dict[str, Any] = msgspec.json.decode(text, type=dict[str, Any])
        except (msgspec.DecodeError, RecursionError) as error:
            person.say(f"That is no JSON object: {visible(str(error))}")
            raise Back from error
        return content
    return await _form(person, form)


async def _form(person: Person, form: Form) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for name, field in form.properties.items():
        needed = name in form.required
        person.say(field_text(name, field, needed=needed))
        for n, value in enumerate(field.values, start=1):
            person.say(f"  {n}  {_value_text(value)}")
        while True:
            said = await person.line("> " if needed else "(Enter: leave it out) > ")
            if not said.strip() and not needed:
                break
            try:
                content[name] = _value(field, said)
                break
            except ValueError as error:
                person.say(str(error))
    return content


def _value_text(value: Any) -> str:
    return one_line(visible(value if isinstance(value, str) else msgspec.json.encode(value).decode()))


def _value(field: Field, said: str) -> Any:
    """What was typed, as the field wants it; raises `ValueError` with a sentence for the person."""
    text = said.strip()
    if values := field.values:
        if text in values:
            return text
        if text.isdecimal() and 1 <= int(text[:6]) <= len(values):
            return values[int(text[:6]) - 1]
        raise ValueError("Please type one of the numbers.")
    if not text:
        raise ValueError("It has to be filled in.")
    if field.type == "string":
        return said
    if field.type == "boolean" and text.lower() in ("y", "yes", "n", "no"):
        return text.lower() in ("y", "yes")
    wanted: dict[str, tuple[Any, str]] = {
        "boolean": (bool, "Please type yes or no."),
        "integer": (int, "Please type a whole number."),
        "number": (float, "Please type a number."),
    }
    kind, sentence = wanted.get(field.type, (object, "Please type JSON; a text goes in quotes."))
    try:
        value: Any = msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(sentence) from error
    return value


async def _choose(person: Person, options: Sequence[tuple[str, str]], words: Mapping[str, str] | None = None) -> str:
    """The name of the option whose number is typed, or that a word stands for."""
    for n, (_, text) in enumerate(options, start=1):
        person.say(f"  {n}  {text}")
    while True:
        said = (await person.line(f"Your choice (1-{len(options)}): ")).strip().lower()
        if said.isdecimal() and 1 <= int(said[:6]) <= len(options):
            return options[int(said[:6]) - 1][0]
        if words is not None and said in words:
            return words[said]
        person.say("Please type one of the numbers.")


async def _wanted(person: Person, prompt: str) -> str:
    text = await person.line(prompt)
    if not text.strip():
        raise Back
    return text


def _answer(
    asked: InteractionRequested,
    by: str,
    action: InteractionAction,
    *,
    content: dict[str, Any] | None = None,
    scope: ApprovalScope = ONCE,
    arguments: str = "",
    comment: str = "",
) -> AnswerInteraction:
    """An answer to exactly what was shown."""
    return AnswerInteraction(
        task=asked.task,
        interaction=asked.interaction,
        action=action,
        content=content,
        by=by,
        scope=scope,
        arguments=arguments,
        comment=comment,
        digest=asked.digest,
    )
