"""Secrets are replaced before an event is stored: by the name of their key, and by the shape of known tokens.

Not by vague shapes: a version, a host name or a hash stays. A key names a secret by its last words (`OPENAI_API_KEY`, `dbPassword`;
not `author`, `maxTokens` or `secretId`). Most events hold nothing like it, so the encoded bytes are first searched for the few
letters that every rule needs (`may_hold_secret`), and only what has them is walked.
"""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final

from pydantic_core import SchemaValidator, core_schema

REDACTED: Final = "***REDACTED***"

_SECRET_NAMES: Final = (
    "password", "passwd", "pwd", "passphrase", "passcode",
    "secret", "secrets", "client secret", "secret key", "secret access key",
    "api key", "apikey", "access key", "account key", "auth key", "encryption key", "master key", "private key",
    "service key", "signing key", "ssh key",
    "token", "authtoken", "accesstoken", "refreshtoken", "bearer", "jwt",
    "authorization", "authentication", "auth", "credential", "credentials", "cookie", "set cookie",
)  # fmt: skip
"""Last words of keys whose values are secret."""

_HARMLESS_NAMES: Final = ("page token", "next token", "continuation token", "sync token", "resume token", "stop token")
"""Names that end like a secret's but are not."""

_NAME_HINTS: Final = (
    b"pass",
    b"pwd",
    b"secret",
    b"key",
    b"token",
    b"bearer",
    b"jwt",
    b"auth",
    b"credential",
    b"cookie",
)

_SHAPES: Final = (
    # (what every match contains, in lower case; the shape)
    (b"sk_", r"\bsk_[A-Za-z0-9_-]{16,}"),  # ours, Stripe's, Evershell's
    (b"stk_", r"\bstk_[A-Za-z0-9_-]{40,}"),  # our tickets
    (b"rk_", r"\brk_(?:live|test)_[A-Za-z0-9]{16,}"),
    (b"sk-", r"\bsk-[A-Za-z0-9_-]{16,}"),  # OpenAI, Anthropic
    *((b"gh%c_" % kind, rf"\bgh{chr(kind)}_[A-Za-z0-9]{{20,}}") for kind in b"pousr"),
    (b"github_pat_", r"\bgithub_pat_[A-Za-z0-9_]{20,}"),
    (b"glpat-", r"\bglpat-[A-Za-z0-9_-]{16,}"),
    (b"pcp_", r"\bpcp_[A-Za-z0-9_]{16,}"),
    (b"xox", r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}"),
    (b"xapp-", r"\bxapp-[A-Za-z0-9-]{10,}"),
    (b"akia", r"\bAKIA[0-9A-Z]{16}\b"),
    (b"asia", r"\bASIA[0-9A-Z]{16}\b"),
    (b"aiza", r"\bAIza[0-9A-Za-z_-]{35}"),
    (b"npm_", r"\bnpm_[A-Za-z0-9]{36}\b"),
    (b"whsec_", r"\bwhsec_[A-Za-z0-9+/=]{16,}"),
    (b"eyj", r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"),
    (b"-----begin", r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)"),
)
_SHAPE_HINTS: Final = (*(hint for hint, _ in _SHAPES), b"basic", b"://")
# Each takes time in proportion to the text: none may start anew at every character of a run, and read on to the run's end.
_SHAPE: Final = re.compile("|".join(shape for _, shape in _SHAPES))
_HEADER: Final = re.compile(r"(?i)\b(authorization\s*[:=]\s*)(?:(?:bearer|basic|token|digest)\s+)?[^\s,;\"']+")
_BEARER: Final = re.compile(r"(?i)\b(bearer\s+)(?=[^\s,;\"']*[0-9._~+/=-])[A-Za-z0-9._~+/=-]{12,}")
_URL_PASSWORD: Final = re.compile(r"(://[^\s/:@]*:)[^\s/?#\"']+(?=@)")

_SHORTEST_SECRET: Final = 6
"""Characters; `://:p@` is the shortest text in which a rule finds something."""

MAX_ENDING: Final = 64
"""Characters of a name that are looked at: more than the longest ending has, few enough to be remembered."""
_SECRET_ENDINGS: Final = tuple(f" {name}" for name in _SECRET_NAMES)
_HARMLESS_ENDINGS: Final = tuple(f" {name}" for name in _HARMLESS_NAMES)
_WORDS: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")

HINTS: Final = tuple(dict.fromkeys((*_NAME_HINTS, *_SHAPE_HINTS)))
# Every event comes here. pydantic's regular expressions look for all hints in one pass, ten times as fast as Python's, which try one
# hint after the other at every character. (?i-u): case and classes are of ASCII only, as in bytes.
_HINT: Final = SchemaValidator(
    core_schema.str_schema(pattern=f"(?i-u:{'|'.join(re.escape(hint.decode()) for hint in HINTS)})")
)


def may_hold_secret(encoded: bytes) -> bool:
    """Tell whether encoded JSON has anything that some rule could replace; False is certain."""
    # Every event has this key of ours, and "sk_" in it. The quotes make sure that it is a key and no one's text.
    return _HINT.isinstance_python(encoded.replace(b'"task_id":', b"").decode())


def is_secret_name(name: str) -> bool:
    """Tell whether a key of this name holds a secret, by its last words."""
    return _is_secret_ending(name[-MAX_ENDING:])


@lru_cache(maxsize=4096)
def _is_secret_ending(name: str) -> bool:
    words = " " + " ".join(_WORDS.findall(name)).lower()
    return words.endswith(_SECRET_ENDINGS) and not words.endswith(_HARMLESS_ENDINGS)


def redact_text(text: str) -> str:
    """Replace the known token shapes within a text."""
    if len(text) < _SHORTEST_SECRET:
        return text
    text = _SHAPE.sub(REDACTED, text)
    text = _HEADER.sub(rf"\1{REDACTED}", text)
    text = _BEARER.sub(rf"\1{REDACTED}", text)
    return _URL_PASSWORD.sub(rf"\1{REDACTED}", text)


def redact(value: Any, *, found: Callable[[], None] = lambda: None) -> Any:
    """Return a JSON value with its secrets replaced; `found` is called for each.

    Below a secret's key everything but null, booleans and the empty string is replaced as a whole. Names of keys are searched for
    tokens too.
    """
    if isinstance(value, str):
        clean = redact_text(value)
        if clean != value:
            found()
        return clean
    if isinstance(value, list):
        return [redact(item, found=found) for item in value]
    if not isinstance(value, dict):
        return value
    result: dict[str, Any] = {}
    for name, item in value.items():
        if is_secret_name(name) and not (item is None or isinstance(item, bool) or item in ("", REDACTED)):
            found()
            item = REDACTED  # noqa: PLW2901
        else:
            item = redact(item, found=found)  # noqa: PLW2901
        result[redact_text(name)] = item
    return result


def redact_changes(
    changes: Mapping[str, Mapping[str, Any]], *, found: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Return an event's changes with their secrets replaced; each keeps its `from` and `to`."""
    clean: dict[str, Any] = {}
    for name, change in changes.items():
        sides = {side: redact({name: value}, found=found) for side, value in change.items()}
        clean[redact_text(name)] = {side: value for side, named in sides.items() for value in named.values()}
    return clean
