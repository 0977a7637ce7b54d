"""The pages behind links: what is asked, and a form to answer it. Pure.

No script, nothing from elsewhere, every stranger's word escaped. Opening a page decides nothing; its buttons post.
"""

from __future__ import annotations

import base64
import hashlib
from html import escape

from schemas.interactions import COMMENT_LENGTH_MAX, InteractionAnswered, InteractionRequested
from schemas.visible import visible
from services.human_contact.core.tokens import LinkAction
from services.human_contact.core.words import SCOPES, ending, headline

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


def question_page(asked: InteractionRequested, action: LinkAction, *, note: str = "", edited: str = "") -> str:
    """What is asked, and how to answer; with a note on what was wrong with an answer before."""
    parts = [_note(note), _facts(asked)]
    if asked.kind == "approval":
        parts.append(_approval(asked, action, edited))
    else:
        parts.append(_answer(asked, action))
    return _page(headline(asked), "".join(parts))


def answered_page(asked: InteractionRequested, answered: InteractionAnswered, *, note: str = "") -> str:
    """What became of it."""
    return _page(headline(asked), _note(note) + _note(ending(answered)) + _facts(asked))


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
    facts = [("Agent", asked.agent), ("Task", f"{asked.namespace}/{asked.task}"), ("The task is about", asked.title)]
    if asked.kind == "approval":
        facts += [("Tool", asked.tool), ("Why, in the model's words", asked.message)]
    listed = "".join(f"<dt>{name}</dt><dd>{_text(value)}</dd>" for name, value in facts if value)
    expires = f"<dt>Open until</dt><dd>{asked.expires.strftime('%Y-%m-%d %H:%M UTC')}</dd>"
    if asked.kind == "approval":
        return f"<dl>{listed}{expires}</dl><h2>Arguments</h2><pre>{_text(asked.arguments) or '(none)'}</pre>"
    return f"<dl>{listed}{expires}</dl><pre>{_text(asked.message)}</pre>"


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
