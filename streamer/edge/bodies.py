"""Bodies of requests: their media types, and JSON as it comes in."""

from typing import Any

import orjson
from aiohttp import web

from streamer.core.errors import UnsupportedMediaType, ValidationError

JSON_TYPES = {"application/json"}
NDJSON_TYPES = {"application/x-ndjson", "application/ndjson", "application/jsonl"}
MAX_SMALL_BYTES = 512 * 1024
"""A body, or a message on a socket, that holds no events."""

_ENCODINGS = ("identity", "gzip", "deflate")


def media_type(request: web.Request, known: set[str]) -> str:
    """Return the body's media type, one of those known. Raises UnsupportedMediaType."""
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in _ENCODINGS:  # aiohttp would hand the bytes on as they are
        raise UnsupportedMediaType(f"send the body as it is, or with `Content-Encoding: {' or '.join(_ENCODINGS[1:])}`")
    kind = request.content_type if "Content-Type" in request.headers else ""
    charset = (request.charset or "utf-8").lower()
    if kind not in known or charset not in {"utf-8", "utf8"}:
        raise UnsupportedMediaType(f"send `Content-Type: {' or '.join(sorted(known))}`, in UTF-8")
    return kind


def parse_json(data: bytes | str, where: str = "body") -> Any:
    """Parse JSON (RFC 8259): UTF-8, no NaN, no lone surrogates; integers beyond 64 bits become floats."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ValidationError({where: f"not valid JSON: {error}"}) from None


def parse_ndjson(data: bytes) -> list[Any]:
    """Parse newline-delimited JSON; blank lines are passed over."""
    lines = [line for line in data.split(b"\n") if line.strip()]
    return [parse_json(line, f"events[{index}]") for index, line in enumerate(lines)]
