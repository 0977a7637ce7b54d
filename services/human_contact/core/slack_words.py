"""Questions in Slack's words: blocks, buttons, modals. Pure.

A stranger's text is always `plain_text` or `rich_text`, which Slack does not read as markup: no mention, link or end of
a code block in it means anything.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec

from schemas.interactions import InteractionAnswered, InteractionRequested
from schemas.slack_messages import SlackRef
from schemas.visible import visible
from services.human_contact.core.elicitations import host_of, server_line
from services.human_contact.core.slack_forms import form_blocks, has_window
from services.human_contact.core.words import buttons, ending, facts, has_arguments, headline, line

SECTION_MAX = 2_900
"""Characters of one text; Slack takes 3,000."""
SECTIONS_MAX = 4
EDITABLE_MAX = 2_900
BUTTON_MAX = 70
CLOCKS_DIFFER_S = 300.0
INPUT = "text"
"""The block and action id of a modal's one input."""

Block = dict[str, Any]


def is_later(ts: str, other: str) -> bool:
    """Whether a message is later than another, by the times that are their ids."""
    try:
        return Decimal(ts) > Decimal(other)
    except InvalidOperation:
        return False


def was_said_to(answered: InteractionAnswered, ts: str, user: str, words: str) -> bool:
    """Whether a message was said while a question was open: it is the answer, coming again, or one that was too late.

    The clocks of Slack and ours may differ, so the same words of the same person are that for a while longer.
    """
    try:
        after_s = float(ts) - answered.at.timestamp()
    except ValueError:
        return True
    said = (answered.content or {}).get("answer")
    same = answered.by == user and isinstance(said, str) and said.casefold() == words.casefold()
    return after_s <= (CLOCKS_DIFFER_S if same else 0.0)


def question_blocks(asked: InteractionRequested, ref: SlackRef) -> list[Block]:
    """A question, with its buttons."""
    whole = fits(asked)
    blocks = [*_facts(asked)]
    if not whole:
        said = "This is too long to be shown here whole, so it cannot be approved here. Use `holdfast inbox`."
        blocks.append({"type": "section", "text": {"type": "mrkdwn", "text": said}})
    return [*blocks, {"type": "actions", "block_id": "holdfast", "elements": _buttons(asked, ref, whole=whole)}]


def fits(asked: InteractionRequested) -> bool:
    """Whether all of what is to be approved can be shown."""
    return len(visible(asked.arguments)) <= SECTION_MAX * SECTIONS_MAX


def closed_blocks(asked: InteractionRequested, answered: InteractionAnswered) -> list[Block]:
    """A question that is over, and how."""
    return [*_facts(asked), _plain(ending(asked, answered))]


def fallback(asked: InteractionRequested) -> str:
    """The text of a notification. Slack reads this one as markup."""
    return headline(asked).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _facts(asked: InteractionRequested) -> list[Block]:
    blocks: list[Block] = [
        {"type": "header", "text": {"type": "plain_text", "text": headline(asked)[:150], "emoji": False}},
        _context(
            f"Agent {line(asked.agent)} · task {line(asked.task)}" + (f" · {line(asked.title)}" if asked.title else "")
        ),
    ]
    if asked.kind == "elicitation":
        blocks.append(_context(server_line(asked)))
    if asked.kind == "uncertain":
        blocks.append(_context(" · ".join(f"{name} {value}" for name, value in facts(asked)[2:])))
    if asked.kind != "approval":
        blocks += [_plain(piece) for piece in _pieces(visible(asked.message))]
    if asked.url:
        blocks += [
            _context(f"It wants you to go to a page of {host_of(asked.url)}. Look at the address before you do:")
        ]
        blocks += [_code(piece) for piece in _pieces(visible(asked.url))]
    if not has_arguments(asked):
        return blocks
    if asked.kind == "approval" and asked.message:
        blocks += [_context("Why, in the model's words:"), _plain(visible(asked.message)[:SECTION_MAX])]
    blocks.append(_context("Arguments:"))
    return [*blocks, *(_code(piece) for piece in _pieces(visible(asked.arguments or "{}")))]


def _pieces(text: str) -> list[str]:
    return [text[at : at + SECTION_MAX] for at in range(0, min(len(text), SECTION_MAX * SECTIONS_MAX), SECTION_MAX)]


def _plain(text: str) -> Block:
    return {"type": "section", "text": {"type": "plain_text", "text": text[:SECTION_MAX] or " ", "emoji": False}}


def _context(text: str) -> Block:
    return {"type": "context", "elements": [{"type": "plain_text", "text": text[:SECTION_MAX], "emoji": False}]}


def _code(text: str) -> Block:
    pre = {"type": "rich_text_preformatted", "elements": [{"type": "text", "text": text}]}
    return {"type": "rich_text", "elements": [pre]}


def _buttons(asked: InteractionRequested, ref: SlackRef, *, whole: bool) -> list[Block]:
    if asked.kind in ("elicitation", "uncertain"):
        return _decision_buttons(asked, ref, whole=whole)
    if asked.kind != "approval":
        if not asked.choices:
            return [_button("answer", "Answer", ref, "primary"), _button("decline", "Decline", ref)]
        choices = [
            _button(f"choice_{n}", line(choice, BUTTON_MAX), msgspec.structs.replace(ref, choice=n))
            for n, choice in enumerate(asked.choices)
        ]
        return [*choices, _button("decline", "Decline", ref)]
    if not whole:
        return [_button("decline", "Reject", ref, "danger")]
    edit = [_button("edit", "Approve with changes…", ref)] if len(asked.arguments) <= EDITABLE_MAX else []
    return [
        _button("accept", "Approve", ref, "primary"),
        _button("accept_task", "Approve for this task", ref),
        {**_button("accept_arguments", "Always approve this", ref), "confirm": _confirm(asked)},
        *edit,
        _button("decline", "Reject", ref, "danger"),
    ]


def _decision_buttons(asked: InteractionRequested, ref: SlackRef, *, whole: bool) -> list[Block]:
    """Yes and no, in the words of what is asked; yes opens a window where there is something to fill in."""
    yes, no = buttons(asked)
    if not whole:
        return [_button("decline", no, ref)]
    accept = _button("answer" if has_window(asked) else "accept", yes, ref, "primary")
    if asked.kind == "uncertain":
        accept["confirm"] = _sure(f"{line(asked.tool, 60)} is called once more, whatever the first call has done.", yes)
    return [accept, _button("decline", no, ref)]


def _button(action: str, text: str, ref: SlackRef, style: str = "") -> Block:
    button: Block = {
        "type": "button",
        "action_id": f"holdfast_{action}",
        "text": {"type": "plain_text", "text": text or "-", "emoji": False},
        "value": ref.text(),
    }
    return {**button, "style": style} if style else button


def _confirm(asked: InteractionRequested) -> Block:
    what = f"{line(asked.agent, 60)} may then call {line(asked.tool, 60)} with these arguments"
    return _sure(f"{what} without asking, until it is revoked.", "Always approve", "Always approve this?")


def _sure(text: str, yes: str, title: str = "Are you sure?") -> Block:
    return {
        "title": {"type": "plain_text", "text": title},
        "text": {"type": "plain_text", "text": text},
        "confirm": {"type": "plain_text", "text": yes},
        "deny": {"type": "plain_text", "text": "Cancel"},
    }


def modal(asked: InteractionRequested, ref: SlackRef, action: str) -> Block:
    """The window that asks for a text: a comment (`decline`), an answer (`answer`), or other arguments (`edit`)."""
    title, submit, label, hint = {
        "decline": (buttons(asked)[1], "Send", "Comment", "The model is told."),
        "answer": ("Answer", "Answer", line(asked.message, 1_900), "The model gets it as the answer."),
        "edit": ("Approve with changes", "Approve", "Arguments", "A JSON object; the call is made with it."),
    }[action]
    field: Block = {"type": "plain_text_input", "action_id": INPUT, "multiline": True, "max_length": 3_000}
    if action == "edit":
        field["initial_value"] = asked.arguments
    blocks = [
        {
            "type": "input",
            "block_id": INPUT,
            "optional": action == "decline",
            "label": {"type": "plain_text", "text": label or "-", "emoji": False},
            "hint": {"type": "plain_text", "text": hint},
            "element": field,
        }
    ]
    if asked.kind == "elicitation":
        blocks = form_blocks(asked)
    return {
        "type": "modal",
        "callback_id": f"holdfast_{action}",
        "private_metadata": ref.text(),
        "title": {"type": "plain_text", "text": title},
        "submit": {"type": "plain_text", "text": submit},
        "close": {"type": "plain_text", "text": "Cancel"},
        "blocks": blocks,
    }
