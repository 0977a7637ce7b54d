"""A small IMAP server (RFC 3501, as much of it as looking for replies takes): strict about syntax and state."""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from email.parser import BytesHeaderParser


class Stored:
    """A message in the mailbox."""

    def __init__(self, uid: int, data: bytes) -> None:
        self.uid = uid
        self.data = data
        self.seen = False


class Imap:
    """One user with one mailbox, `INBOX`; the password is `right`."""

    def __init__(self, user: str) -> None:
        self.user = user
        self.port = 0
        self.messages: list[Stored] = []
        self.visits = 0

    def arrive(self, data: bytes) -> Stored:
        """A message comes in."""
        stored = Stored(len(self.messages) + 1, data)
        self.messages.append(stored)
        return stored

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            writer.write(b"* OK [CAPABILITY IMAP4rev1] ready\r\n")
            state = "not authenticated"
            while line := (await reader.readline()).decode():
                assert line.endswith("\r\n"), line
                tag, command, *words = split(line.rstrip("\r\n"))
                if command == "UID":
                    command, *words = [f"UID {words[0]}", *words[1:]]
                done, state = self._do(writer, state, command, words)
                writer.write(f"{tag} {done}\r\n".encode())
                await writer.drain()
                if command == "LOGOUT":
                    break
        with contextlib.suppress(OSError):
            writer.close()

    def _do(self, writer: asyncio.StreamWriter, state: str, command: str, words: list[str]) -> tuple[str, str]:
        match command, words:
            case "CAPABILITY", []:
                writer.write(b"* CAPABILITY IMAP4rev1\r\n")
            case "LOGIN", [user, password] if state == "not authenticated":
                if (user, password) != (self.user, "right"):
                    return "NO [AUTHENTICATIONFAILED] wrong user or password", state
                self.visits += 1
                return "OK signed in", "authenticated"
            case "SELECT", [mailbox] if state != "not authenticated":
                if mailbox != "INBOX":
                    return "NO [NONEXISTENT] no such mailbox", "authenticated"
                writer.write(f"* {len(self.messages)} EXISTS\r\n* OK [UIDVALIDITY 1] .\r\n".encode())
                return "OK [READ-WRITE] selected", "selected"
            case "UID SEARCH", ["UNSEEN", "FROM", sender, "HEADER", field, text] if state == "selected":
                unseen = [one for one in self.messages if not one.seen and sender in header(one.data, "From").lower()]
                found = [str(one.uid) for one in unseen if text in header(one.data, field)]
                writer.write(f"* SEARCH {' '.join(found)}".rstrip().encode() + b"\r\n")
            case "UID FETCH", [uid, item] if state == "selected":
                asked = re.fullmatch(r"\(BODY\.PEEK\[\]<0\.(\d+)>\)", item)
                assert asked, item
                for one in self.messages:
                    if str(one.uid) == uid:
                        data = one.data[: int(asked[1])]
                        writer.write(f"* {one.uid} FETCH (UID {uid} BODY[]<0> {{{len(data)}}}\r\n".encode())
                        writer.write(data + b")\r\n")
            case "UID STORE", [uids, "+FLAGS", "(\\Seen)"] if state == "selected":
                for one in self.messages:
                    one.seen = one.seen or str(one.uid) in uids.split(",")
            case "LOGOUT", []:
                writer.write(b"* BYE\r\n")
            case _:
                return f"BAD {command} {words} when {state}", state
        return "OK done", state


def split(line: str) -> list[str]:
    """The words of a command: atoms, quoted strings, lists in parentheses."""
    words: list[str] = re.findall(r'"(?:[^"\\]|\\.)*"|\([^)]*\)|[^\s"]+', line)
    return [re.sub(r"\\(.)", r"\1", word[1:-1]) if word.startswith('"') else word for word in words]


def header(data: bytes, name: str) -> str:
    """A header field of a message."""
    return str(BytesHeaderParser().parsebytes(data).get(name, ""))


@asynccontextmanager
async def imap_server(user: str, *, tls: ssl.SSLContext | None = None) -> AsyncGenerator[Imap]:
    """A running server."""
    imap = Imap(user)
    listening = await asyncio.start_server(imap.serve, "127.0.0.1", 0, ssl=tls)
    imap.port = listening.sockets[0].getsockname()[1]
    try:
        yield imap
    finally:
        listening.close()
