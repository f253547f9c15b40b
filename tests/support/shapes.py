"""Inputs of the maximum size, in the shapes that are costliest for parsers, checks and redaction."""

import gzip
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import cycle

MIB = 2**20

REPEATED = {
    "named": "cookie:",
    "assigned": "password=",
    "quoted": 'secret="',
    "flags": "--token ",
    "urls": "postgres://a:b/",
    "authorities": "://a:",
    "pem": "-----BEGIN RSA PRIVATE KEY-----",
    "jwt": "eyJhbGciOi.",
    "dashes": "sk-a-",
    "tokens": "ghp_",
    "backslashes": "\\\\",
    "quotes": "\"'",
    "headers": "Authorization: Bearer ",
    "elements": "<password>",
    "words": "api key ",
    "lines": "token:\n ",
    "curl": "curl -u a ",
    "spaces": "password =  ",
}
"""Texts that repeat the start of a redaction rule's match and never complete it."""


def text_of(unit: str, size: int) -> str:
    """Return a text of about this many characters."""
    return unit * (size // len(unit))


def event_with(details: object) -> dict[str, object]:
    """Return an event with these details."""
    return {"action": "issue.updated", "actor": {"type": "user", "id": "mallory"}, "details": details}


def json_bodies(size: int) -> Iterator[tuple[str, bytes]]:
    """Yield names and bodies of about `size` bytes, as valid and invalid JSON."""
    yield "brackets", b"[" * size
    yield "arrays", b"[" + b"[]," * (size // 3 - 1) + b"[]]"
    yield "objects", b"[" + b"{}," * (size // 3 - 1) + b"{}]"
    yield "numbers", b"[" + b"1," * (size // 2 - 1) + b"1]"
    yield "floats", b"[" + b"1.7976931348623157e308," * (size // 23) + b"1]"
    yield "digits", b"[" + b"9" * (size - 2) + b"]"
    yield "escapes", b'"' + b"\\u00e9" * (size // 6) + b'"'
    yield "string", b'"' + b"a" * (size - 2) + b'"'
    yield "blanks", b" " * (size - 2) + b"[]"
    yield "lines", b"\n" * size
    yield "nesting", b'{"a":' * (size // 6) + b"1" + b"}" * (size // 6)
    yield "keys", ("{" + ",".join(f'"cookie:{n}":1' for n in range(size // 16)) + "}").encode()
    yield "same key", b"{" + b'"code":"x",' * (size // 11) + b'"code":"x"}'
    yield "not UTF-8", b'"' + b"\xff" * (size - 2) + b'"'


def events(size: int, one: int) -> Iterator[tuple[str, bytes]]:
    """Yield names and batches of about `size` bytes, with valid events of about `one` byte each that are costly to redact."""
    for name, event in _costly_events(one).items():
        yield name, _batch([event], size)


def mixed_events(size: int, one: int) -> bytes:
    """Return a batch of at most `size` bytes of these events, with all shapes in turn."""
    return _batch(list(_costly_events(one).values()), size)


def _costly_events(one: int) -> dict[str, str]:
    lengths = {name: one * len(unit) // (len(json.dumps(unit)) - 2) for name, unit in REPEATED.items()}
    return {name: json.dumps(event_with({"output": text_of(unit, lengths[name])})) for name, unit in REPEATED.items()}


def _batch(made: Sequence[str], size: int) -> bytes:
    """Repeat these events until `size` bytes are full. Returns the batch, which has at least one event."""
    batch = [made[0]]
    left = size - len(made[0]) - 2
    for event in cycle([*made[1:], made[0]]):
        left -= len(event) + 1
        if left < 0:
            break
        batch.append(event)
    return f"[{','.join(batch)}]".encode()


def wide_events(count: int) -> Iterator[tuple[str, bytes]]:
    """Yield names and single events with very many values."""
    shapes: Mapping[str, Callable[[], object]] = {
        "many numbers": lambda: {"n": list(range(count))},
        "many names": lambda: {f"access_token_{n}": "" for n in range(count // 2)},
        "many secrets": lambda: {f"password{n}": f"Zx9q{n}" for n in range(count // 4)},
        "arguments": lambda: {"argv": ["--token", "x"] * (count // 4)},
        "headers": lambda: {"rawHeaders": ["Authorization", "Zx9q77"] * (count // 4)},
        "previous": lambda: {"_previous": {f"f{n}": 1 for n in range(count // 2)}},
        "alike": lambda: {"ghp_" + "a" * 36 + str(n): 1 for n in range(count // 16)},
    }
    for name, make in shapes.items():
        yield name, json.dumps(event_with(make())).encode()


def packed(size: int) -> bytes:
    """Return this many bytes of JSON, compressed to very few."""
    return gzip.compress(b"[" + b" " * (size - 2) + b"]")


def queries(names: tuple[str, ...], size: int) -> Iterator[str]:
    """Yield query strings of about `size` bytes with these parameters."""
    for name in names:
        yield f"{name}=" + "a" * size
        yield f"{name}=" + "a," * (size // 2)
        yield f"{name}=" + "%5C," * (size // 4)
        yield f"{name}=" + "%F0%9F%98%80" * (size // 12)
    yield "&".join(f"{name}={n}" for n in range(size // (2 * len(names) * 8) + 1) for name in names)[:size]
    yield "&".join(f"cookie:{n}=x" for n in range(size // 12))
    yield "cookie:" * (size // 7)


def empty_blocks(size: int) -> bytes:
    """Return this many bytes of deflate data (RFC 1951) that expand to nothing: empty blocks, of ten bits each."""
    block = "010" + "0000000"  # not the last one, fixed codes, the end of the block; the first bit is the lowest
    four = int((block * 4)[::-1], 2).to_bytes(5, "little")
    return four * (size // 5)
