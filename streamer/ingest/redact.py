"""Secrets are replaced before an event is stored: by the name of their key, and by the shape of known tokens.

Not by vague shapes: a version, a host name or a hash stays. A key names a secret by its last words (`OPENAI_API_KEY`, `dbPassword`;
not `author`, `maxTokens` or `secretId`). `secrets` has the rules, operators add theirs, docs/redaction.md explains both. Most events
hold nothing like it, so the encoded bytes are first searched for the few letters that every rule needs (`may_hold_secret`), and only
what has them is walked.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum, auto
from functools import lru_cache
from itertools import groupby
from typing import Any, Final

from pydantic_core import SchemaError, SchemaValidator, core_schema

from streamer.ingest import secrets
from streamer.ingest.secrets import REDACTED

Found = Callable[[], object]
"""Called for each secret that was replaced."""

MAX_SHAPE: Final = 200
MAX_ENDING: Final = 64
"""Characters of a name that are looked at: more than the longest ending has, few enough to be remembered."""

_SHORTEST_SECRET: Final = 6
"""Characters; `://:p@` is the shortest text in which a rule finds something."""

_WORDS: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_TOKEN_WORD: Final = re.compile(r"[\w.~+/-]+=*")
"""What operators' shapes are looked for in."""
_NAMED: Final = re.compile("(?a)" + secrets.NAMED)
_VALUE: Final = re.compile("(?as)" + secrets.VALUE)
_STAND_IN: Final = re.compile("(?as)" + secrets.STAND_INS)
_ENTRY: Final = re.compile(r"(?as)([\w.-]+=)(.+)")
_FLAG: Final = re.compile(r"(?a)--?[A-Za-z][\w.-]*")
_PROSE: Final = re.compile("(?a)" + secrets.PROSE)
_ELEMENT: Final = re.compile("(?a)" + secrets.ELEMENT)
_HEADER: Final = re.compile("(?a)" + secrets.HEADER)
_HEADER_NAME: Final = re.compile(secrets.HEADER_NAME)
_WORKING_DIRECTORY: Final = re.compile(secrets.WORKING_DIRECTORY)
_LEADS: Final = tuple((hint, re.compile(f"(?a)({lead})({secret})")) for hint, lead, secret in secrets.LEADS)

_WORD_ENDINGS: Final = tuple(f" {name}" for name in secrets.WORDS)
_SEVERAL_ENDINGS: Final = tuple(f" {name}" for name in secrets.SEVERAL)

_PREFIXES: Final = sorted((prefix, rest) for prefixes, rest in secrets.TOKENS for prefix in prefixes.split())
# By the first letter: at each character of a text Python tries a branch for each letter, not for each token.
_BRANCHES: Final = [
    f"{re.escape(letter)}(?:{'|'.join(re.escape(prefix[1:]) + rest for prefix, rest in group)})"
    for letter, group in groupby(_PREFIXES, key=lambda row: row[0][0])
] + [shape for _, shape in secrets.OTHER_TOKENS]
_TOKENS: Final = re.compile(f"(?a)(?<![A-Za-z0-9_])(?:{'|'.join(_BRANCHES)})[A-Za-z0-9_]*+")


def _rest(beginning: str) -> str:
    """Return what follows a beginning that one of the tokens has, or begins with."""
    return max((row for row in _PREFIXES if beginning.startswith(row[0])), key=lambda row: len(row[0]))[1]


_GLUED: Final = re.compile(
    "(?a)(?<=[A-Za-z0-9_])(?:"
    + "|".join(re.escape(beginning) + _rest(beginning) for beginning in sorted(secrets.GLUED.split()))
    + ")[A-Za-z0-9_]*+"
)

_TOKEN_HINTS: Final = tuple(
    dict.fromkeys([*(p.lower() for p, _ in _PREFIXES), *(hint for hint, _ in secrets.OTHER_TOKENS)])
)
HINTS: Final = tuple(dict.fromkeys([*secrets.NAME_HINTS, *_TOKEN_HINTS, *(hint for hint, *_ in secrets.LEADS)]))


def _ignore() -> None:
    """Count nothing."""


def words_of(name: str) -> str:
    """Return the words of a key's name in lower case: `dbPassword` and `DB_PASSWORD` are `db password`. Raises ValueError if there are none."""
    words = " ".join(_WORDS.findall(name)).lower()
    if not words or len(words) >= MAX_ENDING:
        raise ValueError(f"{name[:MAX_ENDING]!r} has no words of ASCII letters, or over {MAX_ENDING - 1} characters")
    return words


def check_shape(shape: str) -> str:
    """Return an operator's shape if it can be used. Raises ValueError: too long, not a regular expression, or matching everything."""
    if len(shape) > MAX_SHAPE:
        raise ValueError(f"a shape has {len(shape)} characters; at most {MAX_SHAPE}")
    try:
        matcher = _matcher([shape])
    except SchemaError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise ValueError(f"{shape!r} is not a regular expression: {reason}") from None
    if matcher.isinstance_python(""):
        raise ValueError(f"{shape!r} matches the empty text, and so everything")
    return shape


def _matcher(shapes: Iterable[str]) -> SchemaValidator:
    """Compile regular expressions into one that tells whether any of them matches somewhere.

    Pydantic's engine takes time in proportion to the text whatever the pattern, and is ten times as fast as Python's on many
    alternatives; but it does not tell where.
    """
    return SchemaValidator(core_schema.str_schema(pattern="|".join(f"(?:{shape})" for shape in shapes)))


_GLUED_HINT: Final = _matcher(map(re.escape, secrets.GLUED.split()))


class Kind(Enum):
    """What the name of a key says of its value."""

    HARMLESS = auto()
    SECRET = auto()
    WORD = auto()
    """Secret, but `secrets.WORDS` has more to say."""
    SEVERAL = auto()


class Redactor:
    """Replaces secrets, by the built-in rules and an operator's own. It does not change once made; one serves a whole server."""

    def __init__(self, *, names: Sequence[str] = (), keep: Sequence[str] = (), shapes: Sequence[str] = ()) -> None:
        """Compile the rules.

        Args:
            names: last words of further keys whose values are secret.
            keep: last words of keys that are not redacted by name, whatever else says so.
            shapes: regular expressions (Rust's dialect); a word of a text in which one matches is replaced as a whole.

        Raises:
            ValueError: one of them cannot be used.
        """
        own_names = [words_of(name) for name in names]
        self._secret_endings = tuple(f" {name}" for name in secrets.SECRET_NAMES)
        self._own_endings = tuple(f" {name}" for name in own_names)
        self._harmless_endings = tuple(f" {name}" for name in (*secrets.HARMLESS_NAMES, *map(words_of, keep)))
        self._kind_of_ending = lru_cache(maxsize=4096)(self._kind_by_words)
        self._own_shape = _matcher([check_shape(shape) for shape in shapes]) if shapes else None
        hints = dict.fromkeys([*HINTS, *(max(name.split(), key=len) for name in own_names)])
        # (?i-u): case and classes are of ASCII only, as in bytes.
        self._hint = _matcher([f"(?i-u:{'|'.join(re.escape(hint) for hint in hints)})", f"(?i:{secrets.SHORT_NAME})"])

    def may_hold_secret(self, encoded: bytes) -> bool:
        """Tell whether encoded JSON has anything that some rule could replace; False is certain."""
        # Operators' shapes have no letters that they surely need, and may look at what JSON writes in another way.
        if self._own_shape is not None:
            return True
        # Every event has this key of ours, and "sk_" in it. The quotes make sure that it is a key and no one's text.
        return self._hint.isinstance_python(encoded.replace(b'"task_id":', b"").decode())

    def is_secret_name(self, name: str) -> bool:
        """Tell whether a key of this name holds a secret, by its last words."""
        return self._kind(name) in {Kind.SECRET, Kind.WORD}

    def holds_token(self, text: str) -> bool:
        """Tell whether a text that cannot be changed, such as an event's id, has the shape of a token within it."""
        return (
            _TOKENS.search(text) is not None
            or _GLUED.search(text) is not None
            or self._own_tokens(text, _ignore) != text
        )

    def redact(self, value: Any, *, found: Found = _ignore) -> Any:
        """Return a JSON value with its secrets replaced; `found` is called for each.

        Below a secret's key everything but null, booleans, the empty string and a reference is replaced as a whole. Names of keys are
        searched for tokens too.
        """
        if isinstance(value, str):
            return self.redact_text(value, found=found)
        if isinstance(value, list):
            return self._redact_list(value, found)
        if not isinstance(value, dict):
            return value
        label = self._label(value)
        names = self._redact_names(value, found)
        return {
            clean: self._redact_item(label if label and name in secrets.LABELLED else name, item, found)
            for clean, (name, item) in zip(names, value.items(), strict=True)
        }

    def redact_changes(self, changes: Mapping[str, Mapping[str, Any]], *, found: Found = _ignore) -> dict[str, Any]:
        """Return an event's changes with their secrets replaced; each keeps its `from` and `to`."""
        return {
            clean: {side: self._redact_item(name, value, found) for side, value in change.items()}
            for clean, (name, change) in zip(self._redact_names(changes, found), changes.items(), strict=True)
        }

    def redact_texts(self, value: Any, *, found: Found = _ignore) -> Any:
        """Return a value with the secrets in its texts replaced, whatever its keys are called: they are ours."""
        if isinstance(value, str):
            return self.redact_text(value, found=found)
        if isinstance(value, list):
            return [self.redact_texts(item, found=found) for item in value]
        if not isinstance(value, dict):
            return value
        names = self._redact_names(value, found)
        return {name: self.redact_texts(item, found=found) for name, item in zip(names, value.values(), strict=True)}

    def redact_text(self, text: str, *, found: Found = _ignore) -> str:
        """Replace the known token shapes within a text, and what it says that a secret is."""
        if len(text) >= _SHORTEST_SECRET and self._hint.isinstance_python(text):

            def replaced(match: re.Match[str]) -> str:
                lead, secret = match.groups()
                return f"{lead}{_replaced(secret, found)}"

            def replaced_element(match: re.Match[str]) -> str:
                lead, name, value = match.groups()
                secret = value.strip()
                if not self.is_secret_name(name) or self._is_nothing(name, secret):
                    return match[0]
                return f"{lead}{_replaced(value, found)}"

            text = _TOKENS.sub(lambda match: _replaced(match[0], found), text)
            if _GLUED_HINT.isinstance_python(text):
                text = _GLUED.sub(lambda match: _replaced(match[0], found), text)
            lower = text.lower()
            for hint, pattern in _LEADS:
                if hint in lower:
                    text = pattern.sub(replaced, text)
            if "</" in text:
                text = _ELEMENT.sub(replaced_element, text)
            text = self._redact_named(text, found)
        return self._own_tokens(text, found)

    # ---- keys

    def _kind(self, name: str) -> Kind:
        return self._kind_of_ending(name[-MAX_ENDING:])

    def _kind_by_words(self, name: str) -> Kind:
        words = " " + " ".join(_WORDS.findall(name)).lower()
        if words.endswith(self._harmless_endings):
            return Kind.HARMLESS
        if words.endswith(self._own_endings):
            return Kind.SECRET
        if words == f" {secrets.WHOLE_SECRET_NAME}":
            return Kind.WORD
        if words.endswith(self._secret_endings):
            return Kind.WORD if words.endswith(_WORD_ENDINGS) else Kind.SECRET
        return Kind.SEVERAL if words.endswith(_SEVERAL_ENDINGS) else Kind.HARMLESS

    def _label(self, value: Mapping[str, Any]) -> str:
        """Return the secret's name that an object gives to its value, or the empty text."""
        for key in secrets.LABELS:
            label = value.get(key)
            # What is of type "token" is as often a piece of a program as a secret.
            if isinstance(label, str) and self.is_secret_name(label) and (key, label.lower()) != ("type", "token"):
                return label
        return ""

    def _redact_item(self, name: str, value: Any, found: Found) -> Any:
        kind = self._kind(name)
        if kind is Kind.SEVERAL:
            return self._redact_several(value, found)
        if kind is Kind.HARMLESS or self._may_stay(name, value):
            return self.redact(value, found=found)
        return _replaced(value, found)

    def _redact_several(self, value: Any, found: Found) -> Any:
        """Replace the texts that look like secrets, at any depth; another key's value is judged by its own name first."""
        if isinstance(value, str):
            return _replaced(value, found) if _is_one_of_several(value) else self.redact_text(value, found=found)
        if isinstance(value, list):
            return [self._redact_several(item, found) for item in value]
        if not isinstance(value, dict):
            return value
        names = self._redact_names(value, found)
        return {
            clean: self._redact_item(name, item, found)
            if self.is_secret_name(name)
            else self._redact_several(item, found)
            for clean, (name, item) in zip(names, value.items(), strict=True)
        }

    def _may_stay(self, name: str, value: Any) -> bool:
        """Tell whether a value below a secret's key says nothing, or only where the secret lies."""
        is_word = self._kind(name) is Kind.WORD
        if isinstance(value, str):
            is_directory = name.rstrip("=").lower() == "pwd" and len(value) <= secrets.MAX_DIRECTORY
            return (
                value in {"", REDACTED}
                or (is_word and value in secrets.HARMLESS_VALUES)
                or (is_directory and _WORKING_DIRECTORY.fullmatch(value) is not None)
            )
        if isinstance(value, dict) and value.keys() <= secrets.REFERENCE_KEYS:
            return any(key.startswith("secret") for key in value)
        if isinstance(value, dict | list):
            return name.lower() == secrets.WHOLE_SECRET_NAME
        return value is None or isinstance(value, bool) or (is_word and abs(value) <= secrets.MAX_COUNT)

    def _is_nothing(self, name: str, secret: str) -> bool:
        """Tell whether what a text gives to a secret's name is none."""
        is_count = secret.isdecimal() and len(secret) <= len(str(secrets.MAX_COUNT)) and self._kind(name) is Kind.WORD
        return _is_stand_in(secret) or is_count or self._may_stay(name, secret)

    def _redact_names(self, names: Iterable[str], found: Found) -> list[str]:
        """Return the names of an object's keys without tokens, and still each once."""
        clean = [self.redact_text(name, found=found) for name in names]
        if len(set(clean)) == len(clean):
            return clean
        result: dict[str, None] = {}
        taken, number = set(clean), Counter[str]()
        for name in clean:
            unique = name
            while unique in result or (unique is not name and unique in taken):
                number[name] += 1
                unique = f"{name} {number[name] + 1}"
            result[unique] = None
        return list(result)

    # ---- lists

    def _redact_list(self, items: Sequence[Any], found: Found) -> list[Any]:
        """Walk a list. It may be a command's arguments or an environment: there a secret follows its name."""
        result: list[Any] = []
        flag = ""
        curl = bool(items) and isinstance(items[0], str) and items[0].endswith("curl")
        for index, item in enumerate(items):
            clean = item
            if not isinstance(item, str):
                clean = self.redact(item, found=found)
            else:
                lead, secret = self._of_list(flag, item, curl=curl)
                if index % 2 and len(items) % 2 == 0 and self._is_value(items[index - 1], item):
                    lead, secret = "", item
                clean = self.redact_text(lead if secret else item, found=found)
                clean += _replaced(secret, found) if secret else ""
            flag = item if isinstance(item, str) and _FLAG.fullmatch(item) else ""
            result.append(clean)
        return result

    def _is_value(self, header: Any, item: str) -> bool:
        """Tell whether an item of a list is the value of the header before it, and secret."""
        return (
            isinstance(header, str)
            and _HEADER.fullmatch(header) is not None
            and self.is_secret_name(header)
            and any(letter in "0123456789= " for letter in item)
            and REDACTED not in item
            and _HEADER_NAME.fullmatch(item) is None
        )

    def _of_list(self, flag: str, item: str, *, curl: bool) -> tuple[str, str]:
        """Split an item that follows this flag, if any, into what stays and the secret; without one, that is empty."""
        lead, secret = "", ""
        if curl and flag in {"-u", "--user"}:
            user, colon, secret = item.partition(":")
            lead = user + colon
        elif flag and self.is_secret_name(flag):
            secret = item
        elif (
            (entry := _ENTRY.fullmatch(item))
            and self.is_secret_name(entry[1])
            and not self._is_nothing(*entry.groups())
        ):
            lead, secret = entry.groups()
        return (lead, "") if _is_stand_in(secret) else (lead, secret)

    # ---- texts

    def _redact_named(self, text: str, found: Found) -> str:
        """Replace what a text gives to a name of a secret: `--token x`, `API_KEY=x`, `"token": "x"`, `X-Api-Key: x`."""
        done, parts = 0, []
        position = 0
        while match := _NAMED.search(text, position):
            position = match.end()
            name = match["flag"] or match["name"]
            if not self.is_secret_name(name):
                continue
            if not self._is_given(match, text):
                continue
            value = _VALUE.match(text, position)
            if value is None:
                continue
            group = "double" if value["double"] is not None else value.lastgroup or "bare"
            secret = value[group]
            if group == "bare" and not _is_stand_in(secret):
                secret = secret.rstrip(",.)]}>")  # the end of a sentence, or of a list in brackets
            if self._is_nothing(name, secret):
                continue
            start = value.start(group)
            end = start + len(secret)
            parts += [text[done:start], _replaced(secret, found)]
            done = position = end
        return "".join([*parts, text[done:]])

    def _is_given(self, match: re.Match[str], text: str) -> bool:
        """Tell whether what follows a secret's name in a text is a secret rather than prose, by how it is given."""
        name, form = match["flag"] or match["name"], match.lastgroup
        is_word, is_header = self._kind(name) is Kind.WORD, name.lower().startswith("x-")
        if form in {"flag", "name"} or (form == "loose" and is_header) or (form == "arrow" and not is_word):
            return True
        glance = _VALUE.match(text, match.end(), match.end() + secrets.MAX_LOOSE)
        if glance is None or not _is_likely(said := glance[0].strip("\"'")):
            return False
        if form == "tight":
            return is_header or not is_word
        after = text[glance.end() : glance.end() + 1]
        if form == "below" and (said.endswith(":") or after not in {"", "\r", "\n", "'", '"'}):
            return False
        return not (is_word and _PROSE.fullmatch(said))

    def _own_tokens(self, text: str, found: Found) -> str:
        """Replace the words of a text in which an operator's shape matches."""
        shape = self._own_shape
        if shape is None:
            return text

        def replaced(match: re.Match[str]) -> str:
            word = match[0]
            return _replaced(word, found) if word not in REDACTED and shape.isinstance_python(word) else word

        return _TOKEN_WORD.sub(replaced, text)


def _replaced(secret: object, found: Found) -> str:
    """Return what stands for a secret. What was replaced before is no new one."""
    if not (isinstance(secret, str) and REDACTED in secret):
        found()
    return REDACTED


def _is_stand_in(secret: str) -> bool:
    return not secret or (len(secret) <= secrets.MAX_STAND_IN and _STAND_IN.fullmatch(secret) is not None)


def _is_likely(secret: str) -> bool:
    """Tell whether what follows `name: ` is a secret rather than prose."""
    return (
        len(secret) >= secrets.LOOSE_LENGTH
        and any(letter in "0123456789" for letter in secret)
        and not any(letter.isspace() for letter in secret)
        and "://" not in secret
    )


def _is_one_of_several(text: str) -> bool:
    """Tell whether a text below `tokens` or `cookies` is a secret. What was replaced in part is none any more."""
    letters = text[: secrets.MAX_LOOSE]
    return (
        len(text) >= secrets.MIN_OF_SEVERAL
        and _is_likely(text)
        and REDACTED not in text
        and not letters.isdecimal()
        and any(letter.isalpha() for letter in letters)
    )
