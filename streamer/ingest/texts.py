"""Redacts secrets in a text: known tokens and assigned secrets. `secrets` has the rules.

Each step runs in linear time with a small constant, for any text: no pattern looks ahead beyond a bound, and repeated
searches are cached (`_Ahead`).
"""

import re
from base64 import b64decode
from collections.abc import Callable, Iterable
from itertools import groupby
from typing import Final

from pydantic_core import SchemaError

from streamer.ingest import secrets
from streamer.ingest.names import Kind, Names, matcher
from streamer.ingest.secret_names import HARMLESS_VALUES, MAX_COUNT, SHORT_NAME
from streamer.ingest.secrets import REDACTED

Found = Callable[[], object]
"""Called for each replaced secret."""

MAX_SHAPE: Final = 200

_SHORTEST_SECRET: Final = 6
"""Characters; `://:p@` is the shortest text in which a rule finds something."""

_TOKEN_WORD: Final = re.compile(r"[\w.~+/-]+=*")
"""The words in which operators' shapes are searched."""
_DOUBLE: Final = re.compile("(?as)" + secrets.DOUBLE)
_SINGLE: Final = re.compile("(?as)" + secrets.SINGLE)
_BARE: Final = tuple(
    re.compile("(?as)" + secrets.BARE.replace("{line_end}", line_end))
    for line_end in ("(?!)", r"\\[nrt]", r"\\{1,2}[nrt]", r"\\{1,4}[nrt]")
)
"""By the depth of nesting in JSON: there a line end is written with at most this many backslashes."""
_BRACED: Final = re.compile("(?as)" + secrets.BRACED)
_STRING_PREFIX: Final = re.compile(secrets.STRING_PREFIX)
_GIVEN: Final = tuple((hint, re.compile("(?a)" + pattern)) for hint, pattern in secrets.GIVEN)
_ENCODED: Final = re.compile("(?a)" + secrets.ENCODED)
_MIXED_WORD: Final = re.compile("(?a)" + secrets.MIXED_WORD)
_ESCAPED_QUOTE: Final = re.compile(r"\\+[\"']")
_STAND_IN: Final = re.compile("(?as)" + secrets.STAND_INS)
_PROSE: Final = re.compile("(?a)" + secrets.PROSE)
_WORKING_DIRECTORY: Final = re.compile(secrets.WORKING_DIRECTORY)
_LEADS: Final = tuple((hint, re.compile(f"(?a)(?:{lead})(?P<secret>{secret})")) for hint, lead, secret in secrets.LEADS)
_CURL_USER: Final = re.compile("(?a)({})({})".format(*secrets.CURL_USER))
_JWK: Final = re.compile("(?a)({})({})".format(*secrets.JWK))
_BASIC: Final = re.compile("(?a)" + secrets.BASIC)
_URL: Final = re.compile("(?a)" + secrets.URL)
_URL_SECOND: Final = re.compile("(?a)" + secrets.URL_SECOND)
_URL_END: Final = re.compile(secrets.URL_END)
_BLANK: Final = re.compile(r"[\s\"]")
_PORT: Final = re.compile("(?a)" + secrets.PORT)
_TOKEN_USER: Final = re.compile("(?a)" + secrets.TOKEN_USER)
_DIGIT: Final = re.compile("[0-9]")
_MAX_DIGITS: Final = len(str(MAX_COUNT))

_PREFIXES: Final = sorted((prefix, rest) for prefixes, rest in secrets.TOKENS for prefix in prefixes.split())
# By first letter: at each character of a text, Python then tries one branch per letter instead of one per token.
_BRANCHES: Final = [
    f"{re.escape(letter)}(?:{'|'.join(re.escape(prefix[1:]) + rest for prefix, rest in group)})"
    for letter, group in groupby(_PREFIXES, key=lambda row: row[0][0])
] + [shape for _, shape in secrets.OTHER_TOKENS]
_TOKENS: Final = re.compile(f"(?a)(?<![A-Za-z0-9_])(?=[A-Za-z0-9])(?:{'|'.join(_BRANCHES)})[A-Za-z0-9_]*+")


def _rest(beginning: str) -> str:
    """Return what follows a beginning that is, or is the prefix of, one of the tokens'."""
    return max((row for row in _PREFIXES if beginning.startswith(row[0])), key=lambda row: len(row[0]))[1]


_GLUED_PREFIXES: Final = sorted(secrets.GLUED.split())
_GLUED: Final = re.compile(
    f"(?a)[{''.join(sorted({prefix[0] for prefix in _GLUED_PREFIXES}))}](?<=[A-Za-z0-9_].)(?:"
    + "|".join(f"(?<={letter})(?:" + "|".join(re.escape(prefix[1:]) + _rest(prefix) for prefix in group) + ")"
               for letter, group in groupby(_GLUED_PREFIXES, key=lambda prefix: prefix[0]))
    + ")[A-Za-z0-9_]*+"
)  # fmt: skip

_TOKEN_HINTS: Final = tuple(
    dict.fromkeys(
        [
            *(prefix.lower() for prefix, _ in _PREFIXES if prefix not in secrets.HINTS_OF_SHORT),
            *(hint for hint, _ in secrets.OTHER_TOKENS if hint),
        ]
    )
)
HINTS: Final = tuple(dict.fromkeys([*_TOKEN_HINTS, *secrets.HINTS]))
HINT_PATTERNS: Final = (*secrets.HINTS_OF_SHORT.values(), *secrets.HINT_PATTERNS)
"""In lower case: a text without any of them, and without parts of secrets' names, has no secret."""

_ANY_TOKEN: Final = matcher(f"(?i-u:{hint})" for hint in (*map(re.escape, _TOKEN_HINTS), *HINT_PATTERNS))
_ANY_GLUED: Final = matcher(map(re.escape, _GLUED_PREFIXES))
_ANY_SIGN: Final = matcher([r"[\s=:</(%]"])
"""Every rule except those for tokens needs one of these."""


def check_shape(shape: str) -> str:
    """Validate an operator's shape. Raises ValueError: too long, not a regular expression, or matching everything."""
    if len(shape) > MAX_SHAPE:
        raise ValueError(f"a shape has {len(shape)} characters; at most {MAX_SHAPE}")
    try:
        compiled = matcher([shape])
    except SchemaError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise ValueError(f"{shape!r} is not a regular expression: {reason}") from None
    if compiled.isinstance_python(""):
        raise ValueError(f"{shape!r} matches the empty text, and therefore every text")
    return shape


def ignore() -> None:
    """Count nothing."""


def replaced(secret: object, found: Found) -> str:
    """Return the replacement for a secret. A secret that is already replaced does not count again."""
    if not (isinstance(secret, str) and REDACTED in secret):
        found()
    return REDACTED


def is_stand_in(secret: str) -> bool:
    """Return whether a value in a text is only a placeholder."""
    return not secret or (
        secret[0] in secrets.FIRST_OF_STAND_INS
        and len(secret) <= secrets.MAX_STAND_IN
        and _STAND_IN.fullmatch(secret) is not None
    )


def is_likely(secret: str) -> bool:
    """Return whether the text after `name: ` is a secret rather than prose."""
    return (
        len(secret) >= secrets.LOOSE_LENGTH
        and _DIGIT.search(secret) is not None
        and len(secret.split(None, 1)) == 1
        and secret[0] > " "
        and secret[-1] > " "
        and "://" not in secret
    )


class _Ahead:
    """The next match of a pattern in a text. For increasing positions, the text is searched only once."""

    def __init__(self, pattern: re.Pattern[str], text: str) -> None:
        self._pattern, self._text = pattern, text
        self._at = -1

    def __call__(self, position: int) -> int:
        """Return the first match at or after a position, or the text's end."""
        if self._at < position:
            match = self._pattern.search(self._text, position)
            self._at = match.start() if match else len(self._text)
        return self._at


class Texts:
    """Redacts secrets in texts. Immutable."""

    def __init__(self, names: Names, shapes: Iterable[str]) -> None:
        """Compile the rules; `shapes` are an operator's. Raises ValueError."""
        self._names = names
        shapes = [check_shape(shape) for shape in shapes]
        self.own_shape = matcher(shapes) if shapes else None
        # Python finds a set of characters faster than a character with case ignored.
        hints = "|".join("".join(_either_case(letter) for letter in hint) for hint in (*names.hints, "pat"))
        self._named = re.compile("(?a)" + secrets.NAMED.replace("{hints}", hints))
        self._element = re.compile("(?a)" + secrets.ELEMENT.replace("{hints}", hints))
        own = dict.fromkeys((*names.hints, *HINTS))
        # (?i-u): case and classes are ASCII only, as in bytes.
        self.hint = matcher([f"(?i-u:{'|'.join((*map(re.escape, own), *HINT_PATTERNS))})", f"(?i:{SHORT_NAME})"])
        """Matches every text that a rule could change."""

    def clean(self, text: str, found: Found = ignore) -> str:
        """Replace known tokens and assigned secrets in a text."""
        if len(text) >= _SHORTEST_SECRET and self.hint.isinstance_python(text):
            text = self._clean(text, found)
        return self.clean_own(text, found) if self.own_shape is not None else text

    def holds_token(self, text: str) -> bool:
        """Return whether a text that cannot be changed contains the format of a token."""
        return (
            _TOKENS.search(text) is not None or _GLUED.search(text) is not None or self.clean_own(text, ignore) != text
        )

    def clean_tokens(self, text: str, found: Found) -> str:
        """Replace known tokens and an operator's own in a text."""
        return self.clean_own(_clean_tokens(text, found), found)

    def _clean(self, text: str, found: Found) -> str:
        text = _clean_tokens(text, found)
        if not _ANY_SIGN.isinstance_python(text):
            return text
        lower = _lower(text)
        for hint, pattern in _LEADS:
            if hint in lower:
                text, lower = _clean_lead(text, lower, hint, pattern, found)
        for hint, pattern in (("curl", _CURL_USER), ("kty", _JWK)):
            if hint in lower:
                text = pattern.sub(lambda match: f"{match[1]}{replaced(match[2], found)}", text)
        if "basic" in lower:
            text = _BASIC.sub(lambda match: _clean_basic(match, found), text)
        if "://" in text or ":\\" in text:
            text = _clean_urls(text, found)
        if "</" in text:
            text = self._element.sub(lambda match: self._clean_element(match, found), text)
        if "%3d" in lower or "%253d" in lower:
            text = _ENCODED.sub(lambda match: self._clean_element(match, found), text)
        for hint, pattern in _GIVEN:
            if hint in lower:
                text = self._clean_given(text, pattern, found)
        return self._clean_named(text, found)

    def _clean_element(self, match: re.Match[str], found: Found) -> str:
        lead, name, value = match.groups()
        if not self._names.is_secret(name) or self.is_nothing(name, value.strip()):
            return match[0]
        return f"{lead}{replaced(value, found)}"

    def _clean_given(self, text: str, pattern: re.Pattern[str], found: Found) -> str:
        """Replace values assigned to a secret's name; the pattern ends where the value begins."""
        done, parts, bare = 0, [], _bare_of(text)
        for match in pattern.finditer(text):
            if match.start() < done or not self._names.is_secret(match[1]) or match.end() == len(text):
                continue
            value = _value_at(text, match.end(), bare)
            if value and not self.is_nothing(match[1], text[value[0] : value[1]]):
                parts += [text[done : value[0]], replaced(text[value[0] : value[1]], found)]
                done = value[1]
        return "".join([*parts, text[done:]]) if parts else text

    # ---- assigned values

    def may_stay(self, name: str, value: str) -> bool:
        """Return whether a text below a secret's name is empty, or only a reference."""
        return not value or value == REDACTED or _is_setting(name, self._names.kind(name), value)

    def is_nothing(self, name: str, secret: str) -> bool:
        """Return whether a value assigned to a secret's name is not a secret."""
        return (
            is_stand_in(secret) or secret == REDACTED or _is_setting(name, self._names.kind(name), secret, counts=True)
        )

    def _clean_named(self, text: str, found: Found) -> str:
        """Replace values assigned to a secret's name: `--token x`, `API_KEY=x`, `"token": "x"`, `X-Api-Key: x`."""
        search, kind_of, length = self._named.search, self._names.kind, len(text)
        bare, digit = _bare_of(text), _Ahead(_DIGIT, text)
        done, parts = 0, []
        match = search(text)
        while match:
            position = match.end()
            name, form = match["name"] or match["flag"], match.lastgroup
            kind = kind_of(name)
            if (kind is Kind.SECRET or kind is Kind.WORD) and position < length:
                is_braced = text[position - 1] == "=" or text[position - 2 : position] == "= "
                value = None
                if form == "plain":  # by far the most frequent form, and the shortest
                    value = position, match.end("plain"), False
                elif form == "name" or form == "flag" or _is_given(match, text, kind, bare, digit):  # noqa: PLR1714
                    value = _value_at(text, position, bare, is_braced=is_braced)
                if value:
                    start, end, is_certain = value
                    secret = text[start:end]
                    if is_certain or not (
                        is_stand_in(secret) or secret == REDACTED or _is_setting(name, kind, secret, counts=True)
                    ):
                        parts += [text[done:start], replaced(secret, found)]
                        done = position = end
            match = search(text, position)
        return "".join([*parts, text[done:]]) if parts else text

    # ---- operators' shapes

    def clean_own(self, text: str, found: Found) -> str:
        """Replace the words of a text that match an operator's shape."""
        shape = self.own_shape
        if shape is None:
            return text

        def clean(match: re.Match[str]) -> str:
            word = match[0]
            return replaced(word, found) if word not in REDACTED and shape.isinstance_python(word) else word

        return _TOKEN_WORD.sub(clean, text)


def _either_case(letter: str) -> str:
    return f"[{letter}{letter.upper()}]" if letter.isalpha() else re.escape(letter)


def _clean_tokens(text: str, found: Found) -> str:
    if _ANY_TOKEN.isinstance_python(text):
        text = _TOKENS.sub(lambda match: replaced(match[0], found), text)
        if _ANY_GLUED.isinstance_python(text):
            text = _GLUED.sub(lambda match: replaced(match[0], found), text)
    return text


def _lower(text: str) -> str:
    """Return a text in lower case with the same length: U+0130 is the only letter whose lower case has two characters."""
    return text.replace("\u0130", "i").lower()


def _clean_lead(text: str, lower: str, hint: str, pattern: re.Pattern[str], found: Found) -> tuple[str, str]:
    """Replace the text after a lead. Return the text and its lower case."""
    done, parts, lower_parts = 0, [], []
    at = lower.find(hint)
    while at >= 0:
        match = pattern.match(text, at)
        after = at + len(hint)
        if match:
            start, after = match.span("secret")
            parts += [text[done:start], replaced(match["secret"], found)]
            lower_parts += [lower[done:start], REDACTED.lower()]
            done = after
        at = lower.find(hint, after)
    if not parts:
        return text, lower
    return "".join([*parts, text[done:]]), "".join([*lower_parts, lower[done:]])


def _bare_of(text: str) -> re.Pattern[str]:
    """Return the pattern for unquoted values in this text: in JSON a line end is written with backslashes."""
    depth = 0
    if '":' in text or "':" in text or '["' in text or text[:1] == '"':
        depth = 3 if '\\\\\\":' in text else 2 if '\\":' in text else 1
    return _BARE[depth]


def _is_setting(name: str, kind: Kind, value: str, *, counts: bool = False) -> bool:
    """Return whether a text below a secret's name is a setting, a directory, or a count written as text."""
    if kind is Kind.WORD:
        return value in HARMLESS_VALUES or (counts and len(value) <= _MAX_DIGITS and value.isdecimal())
    return (
        len(value) <= secrets.MAX_DIRECTORY
        and (value[0] == "/" or value[1:2] == ":")
        and name.rstrip("=").lower() == "pwd"
        and _WORKING_DIRECTORY.fullmatch(value) is not None
    )


def _is_given(match: re.Match[str], text: str, kind: Kind, bare: re.Pattern[str], digit: _Ahead) -> bool:
    """Return whether the text after a secret's name is a secret rather than prose, by the form of the assignment."""
    form, start = match.lastgroup, match.end()
    is_word, is_header = kind is Kind.WORD, match["header"] is not None
    if (form == "loose" and is_header) or (form == "arrow" and not is_word):
        return True
    if text[start] == "{" and text[start - 2 : start] == "= " and _BRACED.match(text, start):
        return True
    if (form == "tight" and is_word and not is_header) or digit(start) >= start + secrets.MAX_LOOSE:
        return False
    value = _value_at(text, start, bare, most=secrets.MAX_LOOSE)
    if value is None:
        return False
    said, end = text[value[0] : value[1]].strip("\\\"'"), value[1]
    if not is_likely(said):
        # A quoted value can contain spaces, if one of its words is not prose.
        return form == "loose" and not is_word and text[start] in "\"'" and _MIXED_WORD.search(said) is not None
    if form == "below" and (said.endswith(":") or text[end : end + 1] not in {"", "\r", "\n", "'", '"', "\\"}):
        return False
    return form == "tight" or not (is_word and _PROSE.fullmatch(said))


def _value_at(
    text: str, start: int, bare: re.Pattern[str], *, is_braced: bool = False, most: int | None = None
) -> tuple[int, int, bool] | None:
    """Return the start and end of the value at a place, without its quotes, and whether it is certainly a secret.

    Args:
        text: the text.
        start: where the value or its quote begins.
        bare: the pattern for unquoted values.
        is_braced: look for ODBC's braces.
        most: maximum number of characters to read.
    """
    stop = len(text) if most is None else min(start + most, len(text))
    if prefix := _STRING_PREFIX.match(text, start, stop):
        start = prefix.end()
    first = text[start]
    if first == '"' or first == "'":  # noqa: PLR1714
        inner = (_DOUBLE if first == '"' else _SINGLE).match(text, start + 1, stop)
        return (start + 1, inner.end(), False) if inner else None
    if first == "\\" and (quote := _ESCAPED_QUOTE.match(text, start, stop)):
        end = text.find(quote[0], quote.end(), stop)
        return quote.end(), stop if end < 0 else end, False
    if is_braced and first == "{" and (braced := _BRACED.match(text, start)):
        return start, braced.end(), True
    plain = bare.match(text, start, stop)
    if plain is None or plain.end() == start:
        return None
    end = plain.end()
    if text[end - 1] in ",.)]}>":  # the end of a sentence, or of a list in brackets
        secret = text[start:end]
        if not is_stand_in(secret):
            end = start + len(secret.rstrip(",.)]}>"))
    return start, end, False


def _clean_basic(match: re.Match[str], found: Found) -> str:
    """Replace a match that decodes to `user:password`."""
    given = match[1]
    try:
        decoded = b64decode(given.rstrip("=") + "=" * (-len(given.rstrip("=")) % 4)).decode()
    except ValueError:
        return match[0]
    if ":" not in decoded or not decoded.isprintable():
        return match[0]
    return match[0][: -len(given)] + replaced(given, found)


def _clean_urls(text: str, found: Found) -> str:
    """Replace the passwords of URLs, up to the last `@`, and random users."""
    done, parts = 0, []
    end_of, blank = _Ahead(_URL_END, text), _Ahead(_BLANK, text)
    for match in _URL.finditer(text):
        start = match.end()
        if start <= done:
            continue
        if match["after"] == "@" and (second := _URL_SECOND.match(text, start)):
            start, end = second.span(1)
        elif match["after"] == "@":
            start, end = match.span("user")
            if not _TOKEN_USER.fullmatch(match["user"]):
                continue
        else:
            if _PORT.match(text, start):
                continue
            following = text.find("://", start)
            last = len(text) if following < 0 else following
            end = text.rfind("@", start, min(end_of(start), last))
            if end < 0:  # a quote can be part of it
                end = text.rfind("@", start, min(blank(start), last))
        if end > start:
            parts += [text[done:start], replaced(text[start:end], found)]
            done = end
    return "".join([*parts, text[done:]]) if parts else text
