"""Texts that are costly for the redaction rules. They are derived from the rules, so a new rule gets its own.

Each regular expression is walked. Each of its repetitions yields a text that leads up to it and a text that it repeats.
A pattern that is tried at many places, or reads far in vain, is slow on long repetitions of these.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from streamer.ingest import secret_names, secrets, texts

# The parser of `re` has no public name.
_parser: Any = re._parser

PREFERRED = ("a-1A =:/@.", "-1Aa =:/@.")
"""Characters that represent a set, in order of preference."""
OFTEN = 20


CHOSEN = [
    "a", "A", "-eyJ", "eyJaaaaaaaa.", "eyJaaaaaaaa..a", "://", "a://:", "://a:@", ":", "@", "sk-", "sk_-", "xox", "bearer ", "Bearer  a",
    "authorization:", "authorization ", "-----BEGIN ", "-----BEGIN PRIVATE KEY-----", "-----END ", " ", "\n", "é", "a1-.",
    "token=", "token: ", 'token: "', "token: '", 'token=\\"', 'token: \\"', "token=$(", "token=\\", "PWD=/", "--token ", "curl -u ", "cookie: ",
    "cookie:", "cookie:a", "?sig=", "a=", "a: ", "{", "[", "SG.", "1234567890:AA", "0Q~", "aaaa.", ".atlasv1.", "/webhooks/", "acme_", "key\n",
    "docker login ", "mysql -p", "mysql -", "machine a login ", "machine ", "password:\n ", "password:\n", "<password>", "<a ", "api ", "secret key",
    "password =>", "password :=", "apikey:", "://a1", "://aaaaaaaaaaaaaaaaa1", "Digest a=", ', a="', "authorization: a b=1,", "sk_a", "xghp_", "pat", "configure set a",
]  # fmt: skip
"""Units that cannot be derived from a rule: each was slow for some version of the rules."""


def _members(items: Any) -> set[str]:
    """Return the ASCII characters of a set."""
    pattern = re.compile("[" + "".join(map(_of_set, items)) + "]", re.ASCII)
    return {chr(code) for code in range(32, 127) if pattern.fullmatch(chr(code))}


def _of_set(item: Any) -> str:
    operation, value = str(item[0]), item[1]
    if operation == "NEGATE":
        return "^"
    if operation == "LITERAL":
        return re.escape(chr(value))
    if operation == "RANGE":
        return f"{re.escape(chr(value[0]))}-{re.escape(chr(value[1]))}"
    return {
        "CATEGORY_DIGIT": r"\d", "CATEGORY_NOT_DIGIT": r"\D", "CATEGORY_SPACE": r"\s", "CATEGORY_NOT_SPACE": r"\S",
        "CATEGORY_WORD": r"\w", "CATEGORY_NOT_WORD": r"\W",
    }[str(value)]  # fmt: skip


def _pick(members: set[str], preferred: str) -> str:
    return next((letter for letter in preferred if letter in members), min(members, default="\n"))


def _walk(parsed: Iterable[Any], before: str, preferred: str, pumps: set[tuple[str, str]], turn: int) -> str:
    """Return `before` and a matching text; record each repetition as the text before it and the repeated text."""
    text = before
    for operation, value in parsed:
        name = str(operation)
        if name == "LITERAL":
            text += chr(value)
        elif name in {"IN", "NOT_LITERAL", "ANY"}:
            given = value if name == "IN" else [] if name == "ANY" else [("NEGATE", None), ("LITERAL", value)]
            text += _pick(_members(given), preferred) if given else preferred[0]
        elif name in {"MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"}:
            least, most, inner = value
            once = _walk(inner, "", preferred, set(), turn)
            pumps.add((text, once))
            text += once * (least if least or most != 1 else turn % 2)
        elif name == "BRANCH":
            text = _walk(value[1][turn % len(value[1])], text, preferred, pumps, turn)
        elif name == "SUBPATTERN":
            text = _walk(value[3], text, preferred, pumps, turn)
        elif name == "ATOMIC_GROUP":
            text = _walk(value, text, preferred, pumps, turn)
        elif name == "ASSERT" and value[0] > 0:
            _walk(value[1], text, preferred, pumps, turn)
    pumps.add((text, ""))
    return text


def of_pattern(pattern: str) -> Iterator[str]:
    """Yield texts to repeat, derived from a regular expression."""
    parsed = _parser.parse(f"(?as){pattern}")
    pumps: set[tuple[str, str]] = set()
    for turn, preferred in enumerate(PREFERRED):
        _walk(parsed, "", preferred, pumps, turn)
    for lead, pump in sorted(pumps):
        yield from (lead, lead + pump * OFTEN, lead[:-1])


def _of_names() -> Iterator[str]:
    """Yield names of secrets in all notations for a value, with an empty, short or incomplete value."""
    several = ("pw", "key", "cookie", "x-api-key")
    values = ("", "a", "$A", "''", "a1b2c3d4", "abcdefgh", '"', '\\"', "{", "{a1", "\\", "\\n", "5", "/")
    forms = ("=", ": ", ":", " = ", '":"', '\\":\\"', ":\n ", ": |\n ", " := ", " => ", "]=")
    for name in several:
        yield from (f"{name}{form}{value}{end}" for form in forms for value in values for end in ("", " "))
        yield from (f"--{name} {value} " for value in values)
        yield from (f"<{name}>{value}</" for value in values)
        yield from (f"<{name} {value}>" for value in values)
    yield from (f"{name.replace(' ', '_')}=" for name in secret_names.SECRET_NAMES)


def _patterns() -> Iterator[str]:
    hints = "|".join(secret_names.NAME_HINTS)
    for prefixes, rest in secrets.TOKENS:
        yield from (re.escape(prefix) + rest for prefix in prefixes.split())
    yield from (shape for _, shape in secrets.OTHER_TOKENS)
    yield from (lead + secret for _, lead, secret in secrets.LEADS)
    yield from (lead + secret for lead, secret in (secrets.CURL_USER, secrets.JWK))
    yield from (pattern for _, pattern in secrets.GIVEN)
    for name in (
        "BASIC",
        "URL",
        "PORT",
        "TOKEN_USER",
        "NAMED",
        "DOUBLE",
        "SINGLE",
        "BARE",
        "BRACED",
        "ELEMENT",
        "ENCODED",
        "URL_SECOND",
        "STRING_PREFIX",
        "MIXED_WORD",
        "STAND_INS",
        "PROSE",
    ):
        yield getattr(secrets, name).replace("{hints}", hints).replace("{line_end}", r"\\[nrt]")


def units() -> list[str]:
    """Return the texts to repeat."""
    found = dict.fromkeys(unit for pattern in _patterns() for unit in of_pattern(pattern))
    found |= dict.fromkeys((*_of_names(), *CHOSEN))
    signs = [
        " ",
        "\n",
        '"',
        "'",
        "\\",
        '\\"',
        ":",
        "://",
        "://a:",
        "://a:@",
        "=",
        "<",
        "</",
        "-",
        "--",
        "@",
        "{",
        "é",
        "a",
        "A",
        "1",
        "x=",
        "a:b@",
    ]
    found |= dict.fromkeys([*signs, *texts.HINTS, *(f"{hint} " for hint in texts.HINTS)])
    found.pop("", None)
    return list(found)


ALL_HINTS = "".join(
    f"{hint}\n"
    for hint in dict.fromkeys(
        (
            *(hint for hint, *_ in secrets.LEADS),
            *secrets.HINTS,
            "identified by",
            "basic abcdefgh",
            "xghp_",
            " sk_",
            "%3d",
            *(hint for hint, _ in secrets.GIVEN),
        )
    )
)
"""What makes each rule read the whole text."""


def worst_text(unit: str, length: int) -> str:
    """Return a text of this length that repeats a unit, and for which no rule can be skipped."""
    room = length - len(ALL_HINTS)
    return ALL_HINTS + (unit * (room // len(unit) + 1))[:room]
