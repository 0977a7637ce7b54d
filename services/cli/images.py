"""Images that a command line names: read, recognized by their first bytes, and refused if no provider takes them."""

from __future__ import annotations

import base64
from pathlib import Path

from schemas.messages import IMAGE_DATA_LENGTH_MAX, IMAGE_TYPES, ImagePart, image_type
from services.cli.exits import ExitCode, Stop

IMAGE_BYTES_MAX = IMAGE_DATA_LENGTH_MAX // 4 * 3


def image_of(place: str) -> ImagePart:
    """The image at a path, or at an address that the model's provider reads; the command ends if there is none."""
    if place.startswith(("http://", "https://")):
        return ImagePart(url=place)
    try:
        with Path(place).open("rb") as file:
            data = file.read(IMAGE_BYTES_MAX + 1)
    except OSError as error:
        raise Stop(f"cannot read the image {place}: {error.strerror or error}", ExitCode.NOT_FOUND) from error
    if len(data) > IMAGE_BYTES_MAX:
        raise Stop(f"the image {place} has more than {IMAGE_BYTES_MAX >> 20} MiB", ExitCode.REFUSED)
    media_type = image_type(data)
    if not media_type:
        raise Stop(f"{place} is none of {', '.join(IMAGE_TYPES)}; convert it first", ExitCode.REFUSED)
    return ImagePart(media_type=media_type, data=base64.b64encode(data).decode())


def image_text(image: ImagePart) -> str:
    """An image in a conversation that is printed: `[image image/png, 12 kB]`."""
    if image.url:
        return f"[image {image.url}]"
    size = len(image.data) * 3 // 4 - image.data[-2:].count("=")
    return f"[image {image.media_type}, {_size(size)}]"


def _size(count: int) -> str:
    if count < 1000:
        return f"{count} B"
    return f"{count / 1e3:.0f} kB" if count < 1_000_000 else f"{count / 1e6:.1f} MB"
