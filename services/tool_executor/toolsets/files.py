"""Reading and writing in the task's working directory."""

from __future__ import annotations

import asyncio
from pathlib import Path

from schemas.messages import image_type
from schemas.resources import FilesOptions
from services.tool_executor.core.content import text_of
from services.tool_executor.core.results import Reply
from services.tool_executor.toolsets.beneath import NotThere, list_folder, parts_of, read_file, write_file
from services.tool_executor.toolsets.job import CannotRun, Job, image, words


async def run_files(options: FilesOptions, job: Job) -> Reply:
    """Carry out one of the tools. Raises `CannotRun`."""
    root, _ = await job.place()
    try:
        return await asyncio.to_thread(_run, root, options, job)
    except (NotThere, OSError) as error:
        raise CannotRun(str(error)) from error


def _run(root: Path, options: FilesOptions, job: Job) -> Reply:
    steps = parts_of(str(job.arguments.get("path", ".")), str(root))
    if options.read_only and job.tool not in ("read", "list"):
        raise NotThere("These files can be read only.")
    match job.tool:
        case "read":
            return _read(read_file(root, steps, options.file_bytes), job)
        case "list":
            return _list(root, steps)
        case "write":
            return _write(root, steps, str(job.arguments["content"]), options)
        case "edit":
            return _edit(root, steps, str(job.arguments["old"]), str(job.arguments["new"]), options)
        case _:
            raise NotThere(f"There is no tool {job.tool!r} for files.")


def _read(data: bytes, job: Job) -> Reply:
    if kind := image_type(data):
        return image(data, kind)
    text = text_of(data)
    if text is None:
        return words(f"[a binary file of {len(data)} bytes]")
    lines = [f"{line}\n" for line in text.removesuffix("\n").split("\n")]
    first = int(job.arguments.get("first_line", 1))
    count = int(job.arguments.get("lines", len(lines)))
    if first == 1 and count >= len(lines):
        return words(text or "[the file is empty]")
    wanted = lines[first - 1 : first - 1 + count]
    if not wanted:
        return words(f"The file has {len(lines)} lines; there is no line {first}.", is_error=True)
    return words(f"[lines {first} to {first + len(wanted) - 1} of {len(lines)}]\n{''.join(wanted)}")


def _list(root: Path, steps: list[str]) -> Reply:
    found, more = list_folder(root, steps)
    lines = [f"{one.name}/" if one.kind == "directory" else _line(one.name, one.kind, one.size) for one in found]
    if more:
        lines.append(f"[and {more} more]")
    return words("\n".join(lines) or "[the directory is empty]")


def _line(name: str, kind: str, size: int) -> str:
    return f"{name}  {size} bytes" if kind == "file" else f"{name}  ({kind})"


def _write(root: Path, steps: list[str], content: str, options: FilesOptions) -> Reply:
    data = content.encode(errors="replace")
    if len(data) > options.file_bytes:
        raise NotThere(f"The content has {len(data)} bytes, and this tool writes {options.file_bytes} at most.")
    there = write_file(root, steps, data)
    return words(f"{'Replaced' if there else 'Wrote'} {'/'.join(steps)}: {len(data)} bytes.")


def _edit(root: Path, steps: list[str], old: str, new: str, options: FilesOptions) -> Reply:
    name = "/".join(steps)
    try:
        text = read_file(root, steps, options.file_bytes).decode()
    except UnicodeDecodeError as error:
        raise NotThere(f"{name} is not a text in UTF-8.") from error
    if not old:
        raise NotThere("'old' is empty; give the text to replace.")
    found = text.count(old)
    if found != 1:
        raise NotThere(
            f"The text to replace is {'not there' if not found else f'there {found} times'} in {name}; it must be there"
            " exactly once."
        )
    _write(root, steps, text.replace(old, new), options)
    return words(f"Edited {name}.")
