"""The pages behind links: what is asked, and a form to answer it. Pure.

No script, nothing from elsewhere, every stranger's word escaped. Opening a page decides nothing; its buttons post.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from html import escape
from types import MappingProxyType
from typing import Any, assert_never

import msgspec

from schemas.interactions import COMMENT_LENGTH_MAX, InteractionAnswered, InteractionRequested
from schemas.visible import visible
from services.human_contact.core.elicitations import JSON_FIELD, NO_SECRETS, Field, form_of, host_of, server_line
from services.human_contact.core.tokens import LinkAction
from services.human_contact.core.words import SCOPES, buttons, ending, facts, has_arguments, headline

NOTHING: Mapping[str, str] = MappingProxyType({})
TEXT_LENGTH_MAX = 20_000
INPUT_TYPES = {"email": "email", "uri": "url", "date": "date"}
"""The inputs of formats that browsers know."""

STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:44rem;margin:2rem auto;padding:0 1rem;color:#1b1f24;"
    "background:#fff}h1{font-size:1.3rem}dt{color:#57606a}dd{margin:0 0 .5rem}"
    "pre,textarea{font:14px/1.4 ui-monospace,monospace;width:100%;box-sizing:border-box}"
    "pre{background:#f6f8fa;padding:.75rem;white-space:pre-wrap;overflow-wrap:anywhere}"
    "button{font:inherit;padding:.5rem 1rem;margin:.25rem .5rem .25rem 0}fieldset{border:1px solid #d0d7de;"
    "margin:1rem 0}.note{padding:.75rem;background:#fff8c5}"
)
CSP = (
    "default-src 'none'; style-src 'sha256-"
    + base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    + "'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""The policy that goes with every page."""


def question_page(
    asked: InteractionRequested, action: LinkAction, *, note: str = "", filled: Mapping[str, str] = NOTHING
) -> str:
    """What is asked, and how to answer; with a note on what was wrong with an answer before, which is `filled` in."""
    parts = [_note(note), _facts(asked)]
    match asked.kind:
        case "approval":
            parts.append(_approval(asked, action, filled.get("arguments", "")))
        case "uncertain":
            parts.append(_decision(asked, action))
        case "elicitation":
            parts.append(_elicitation(asked, action, filled))
        case "question":
            parts.append(_answer(asked, action))
        case _:
            assert_never(asked.kind)
    return _page(headline(asked), "".join(parts))


def answered_page(asked: InteractionRequested, answered: InteractionAnswered, *, note: str = "") -> str:
    """What became of it."""
    return _page(headline(asked), _note(note) + _note(ending(asked, answered)) + _facts(asked))


def plain_page(title: str, text: str) -> str:
    """A sentence."""
    return _page(title, f"<p>{_text(text)}</p>")


def _page(title: str, body: str) -> str:
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title><style>{STYLE}</style></head>"
        f"<body><main><h1>{_text(title)}</h1>{body}</main></body></html>"
    )


def _text(text: str) -> str:
    return escape(visible(text), quote=True)


def _note(text: str) -> str:
    return f'<p class="note" role="status">{_text(text)}</p>' if text else ""


def _facts(asked: InteractionRequested) -> str:
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{_text(value)}</dd>" for name, value in facts(asked))
    expires = f"<dt>Open until</dt><dd>{asked.expires.strftime('%Y-%m-%d %H:%M UTC')}</dd>"
    parts = [f"<dl>{listed}{expires}</dl>"]
    if asked.kind == "elicitation":
        parts.append(f"<p>{_text(server_line(asked))}</p>")
    if asked.kind != "approval":
        parts.append(f"<pre>{_text(asked.message)}</pre>")
    if has_arguments(asked):
        parts.append(f"<h2>Arguments</h2><pre>{_text(asked.arguments) or '(none)'}</pre>")
    return "".join(parts)


def _button(value: str, text: str) -> str:
    return f'<button type="submit" name="action" value="{value}">{escape(text)}</button>'


def _comment(label: str) -> str:
    return (
        f'<p><label for="comment">{escape(label)}</label>'
        f'<textarea id="comment" name="comment" rows="3" maxlength="{COMMENT_LENGTH_MAX}"></textarea></p>'
    )


def _approval(asked: InteractionRequested, action: LinkAction, edited: str) -> str:
    parts: list[str] = []
    if action != "decline":
        scopes = "".join(
            f'<p><label><input type="radio" name="scope" value="{scope}"{" checked" if scope == "once" else ""}> '
            f"{escape(words)}</label></p>"
            for scope, words in SCOPES.items()
        )
        parts += [f"<fieldset><legend>Approve</legend>{scopes}", _button("accept", "Approve"), "</fieldset>"]
        # HTML drops one line break after the tag.
        area = f'<textarea id="arguments" name="arguments" rows="8">\n{_raw(edited or asked.arguments)}</textarea>'
        parts += [
            f"<details{' open' if edited else ''}><summary>Approve with other arguments</summary>",
            f'<p><label for="arguments">Arguments (a JSON object)</label>{area}</p>',
            _button("edit", "Approve with these arguments"),
            "</details>",
        ]
    if action != "accept":
        parts += [
            "<fieldset><legend>Reject</legend>",
            _comment("A comment, which the model is told"),
            _button("decline", "Reject"),
            "</fieldset>",
        ]
    return f'<form method="post" accept-charset="utf-8">{"".join(parts)}</form>'


def _decision(asked: InteractionRequested, action: LinkAction) -> str:
    again, leave = buttons(asked)
    parts: list[str] = []
    if action != "decline":
        said = "The call is made once more, as it was, whatever the first one has done."
        parts.append(f"<fieldset><legend>{again}</legend><p>{said}</p>{_button('accept', again)}</fieldset>")
    if action != "accept":
        comment = _comment("A comment, which the model is told")
        parts.append(f"<fieldset><legend>{leave}</legend>{comment}{_button('decline', leave)}</fieldset>")
    return f'<form method="post" accept-charset="utf-8">{"".join(parts)}</form>'


def _elicitation(asked: InteractionRequested, action: LinkAction, filled: Mapping[str, str]) -> str:
    yes, no = buttons(asked)
    parts: list[str] = []
    if action != "decline":
        inputs = _inputs(asked.schema, filled) if asked.schema is not None else _address(asked.url)
        parts.append(f"<fieldset><legend>{yes}</legend>{inputs}{_button('accept', yes)}</fieldset>")
    if action != "accept":
        parts.append(f"<fieldset><legend>{no}</legend>{_button('decline', no)}</fieldset>")
    return f'<form method="post" accept-charset="utf-8" novalidate>{"".join(parts)}</form>'


def _address(url: str) -> str:
    """An address, for people to look at before they go there."""
    host = f"<p>It wants you to go to a page of <strong>{_text(host_of(url)) or '(an unreadable host)'}</strong>:</p>"
    return f"{host}<pre>{_text(url)}</pre><p>Look at the address before you open it. The button does not open it.</p>"


def _inputs(schema: dict[str, Any], filled: Mapping[str, str]) -> str:
    fields = form_of(schema)
    warning = f"<p><strong>{NO_SECRETS}</strong></p>"
    if fields is None:
        wanted = f"<details><summary>What it has to fit</summary><pre>{_text(_json(schema))}</pre></details>"
        area = (
            f'<textarea id="{JSON_FIELD}" name="{JSON_FIELD}" rows="8">\n{_raw(filled.get(JSON_FIELD, ""))}</textarea>'
        )
        return f'{warning}{wanted}<p><label for="{JSON_FIELD}">A JSON object</label>{area}</p>'
    return warning + "".join(_input(n, field, filled) for n, field in enumerate(fields))


def _input(n: int, field: Field, filled: Mapping[str, str]) -> str:
    id_ = f"f{n}"
    mark = " (required)" if field.required else ""
    help_ = f"<br><small>{_text(field.help)}</small>" if field.help else ""
    label = f"{_text(field.label)}{mark}{help_}"
    if field.kind == "choices":
        boxes = "".join(
            f'<br><label><input type="checkbox" name="{id_}.{at}" value="on"{_checked(field, at, id_, filled)}> '
            f"{_text(choice.label)}</label>"
            for at, choice in enumerate(field.choices)
        )
        return f"<fieldset><legend>{label}</legend>{boxes}</fieldset>"
    if field.kind == "choice":
        options = "".join(
            f'<option value="{at}"{_selected(field, at, id_, filled)}>{_text(choice.label)}</option>'
            for at, choice in enumerate(field.choices)
        )
        control = f'<select id="{id_}" name="{id_}"><option value="">-</option>{options}</select>'
    else:
        kind = INPUT_TYPES.get(field.format, "text")
        value = escape(filled.get(id_, field.default_text()), quote=True)
        control = f'<input id="{id_}" name="{id_}" type="{kind}" value="{value}" maxlength="{TEXT_LENGTH_MAX}">'
    return f'<p><label for="{id_}">{label}</label><br>{control}</p>'


def _checked(field: Field, at: int, id_: str, filled: Mapping[str, str]) -> str:
    default: Any = field.default
    chosen: list[Any] = default if isinstance(default, list) else []  # pyright: ignore[reportUnknownVariableType] - any JSON
    on = f"{id_}.{at}" in filled if filled else field.choices[at].value in chosen
    return " checked" if on else ""


def _selected(field: Field, at: int, id_: str, filled: Mapping[str, str]) -> str:
    if filled:
        return " selected" if filled.get(id_) == str(at) else ""
    return " selected" if field.default is not None and field.choices[at].value == field.default else ""


def _json(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value)).decode()


def _raw(text: str) -> str:
    """For a text area: what is in it comes back, so nothing is written out."""
    return escape(text, quote=True)


def _answer(asked: InteractionRequested, action: LinkAction) -> str:
    parts: list[str] = []
    if action != "decline" and asked.choices:
        buttons = "".join(
            f'<button type="submit" name="choice" value="{n}">{_text(choice)}</button>'
            for n, choice in enumerate(asked.choices)
        )
        parts.append(f"<fieldset><legend>Answer</legend>{buttons}</fieldset>")
    elif action != "decline":
        area = '<p><label for="answer">Your answer</label><textarea id="answer" name="answer" rows="6"></textarea></p>'
        parts.append(f"<fieldset><legend>Answer</legend>{area}{_button('accept', 'Answer')}</fieldset>")
    if action != "accept":
        parts += [
            "<fieldset><legend>Do not answer</legend>",
            _comment("A comment, which the model is told"),
            _button("decline", "Decline"),
            "</fieldset>",
        ]
    return f'<form method="post" accept-charset="utf-8">{"".join(parts)}</form>'
