"""Decides from a key's name whether its value is secret. `secret_names` has the data."""

import re
from collections.abc import Iterable, Sequence
from enum import Enum, auto
from functools import lru_cache
from typing import Final

from pydantic_core import SchemaValidator, core_schema

from streamer.ingest import secret_names

MAX_ENDING: Final = 64
"""Characters of a name that are examined: more than the longest ending has, and few enough to cache."""

_WORDS: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_ODD_CAPITALS: Final = re.compile(r"[A-Z]{2}[a-z]+\Z")
_LAST_WORD: Final = re.compile(r"[A-Za-z]+\Z")
_LAST_LETTERS: Final = frozenset(
    word[-3:]
    for word in (
        *secret_names.RUN_TOGETHER,
        *secret_names.WORDS_RUN_TOGETHER,
        *secret_names.SHORT_RUN_TOGETHER,
        *secret_names.LATER_WORDS,
    )
)
"""Candidates for words that are written together: most names match none and need no further checks."""
_TOGETHER: Final = re.compile(rf"(?:{'|'.join(sorted(secret_names.LATER_WORDS - {'v'}))})\Z")
"""A suffix can also be written together with the name."""


class Kind(Enum):
    """What a key's name says about its value."""

    HARMLESS = auto()
    SECRET = auto()
    WORD = auto()
    """Secret, with the exceptions in `secret_names.WORDS`."""
    SEVERAL = auto()


_WHOLE: Final = [secret_names.WHOLE_SECRET_NAME]
_BUILT_IN: Final = {
    **dict.fromkeys(secret_names.SECRET_NAMES, Kind.SECRET),
    **dict.fromkeys(secret_names.WORDS, Kind.WORD),
    **dict.fromkeys(secret_names.SEVERAL, Kind.SEVERAL),
}


def matcher(patterns: Iterable[str]) -> SchemaValidator:
    """Compile regular expressions into one that reports whether any of them matches.

    Pydantic's engine (Rust's) runs in linear time for every pattern, and is ten times as fast as Python's on many
    alternatives, but does not report the place of the match.
    """
    return SchemaValidator(core_schema.str_schema(pattern="|".join(f"(?:{pattern})" for pattern in patterns)))


def words_of(name: str) -> str:
    """Return the words of a key's name in lower case: `dbPassword` and `DB_PASSWORD` are `db password`. Raises ValueError if there are none."""
    words = " ".join(_WORDS.findall(name)).lower()
    if not words or len(words) >= MAX_ENDING:
        raise ValueError(f"{name[:MAX_ENDING]!r} has no words of ASCII letters, or over {MAX_ENDING - 1} characters")
    return words


class Names:
    """Judges names, by the built-in data and an operator's own. Immutable."""

    def __init__(self, own: Sequence[str], keep: Sequence[str]) -> None:
        """Take the operator's last words of names that are secret, and of names that are not. Raises ValueError."""
        own = [words_of(name) for name in own]
        harmless = [*secret_names.HARMLESS_NAMES, *map(words_of, keep)]
        self._first = {**dict.fromkeys(own, Kind.SECRET), **dict.fromkeys(harmless, Kind.HARMLESS)}
        """Names that take precedence over the built-in ones."""
        self._harmless_together = tuple(name.replace(" ", "") for name in harmless)
        self._longest = max(name.count(" ") + 1 for name in (*_BUILT_IN, *self._first))
        self.hints = tuple(dict.fromkeys([*secret_names.NAME_HINTS, *(max(name.split(), key=len) for name in own)]))
        """Every secret name contains one of these, in lower case, or `secret_names.SHORT_NAME`."""
        hints = "|".join(map(re.escape, self.hints))
        self._hint = matcher([f"(?i-u:{hints})", f"(?i:{secret_names.SHORT_NAME}|pat$)"])
        self._kind_of_ending = lru_cache(maxsize=4096)(self._by_words)

    def kind(self, name: str) -> Kind:
        """Judge a name by its last words."""
        return self._kind_of_ending(name if len(name) <= MAX_ENDING else name[-MAX_ENDING:])

    def is_secret(self, name: str) -> bool:
        """Return whether a key of this name holds a secret."""
        kind = self._kind_of_ending(name[-MAX_ENDING:])
        return kind is Kind.SECRET or kind is Kind.WORD

    def _by_words(self, name: str) -> Kind:
        if not self._hint.isinstance_python(name):
            return Kind.HARMLESS
        words = " ".join(_WORDS.findall(name)).lower().split()
        kind = self._judge(words)
        if kind is None and name.lower().endswith(secret_names.OWN_COOKIE):
            return Kind.WORD
        if kind is None and _ODD_CAPITALS.search(name) and (last := _LAST_WORD.search(name)):
            kind = self._together(last[0].lower())  # PASSword
        if kind is None:
            return self._followed(words) or Kind.HARMLESS
        return kind

    def _judge(self, words: Sequence[str]) -> Kind | None:
        """Judge by the last words; None if they are unknown."""
        found: Kind | None = None
        ending = ""
        for word in words[: -self._longest - 1 : -1]:
            ending = f"{word} {ending}" if ending else word
            first = self._first.get(ending)
            if first is Kind.HARMLESS:
                return first
            if first is not None:
                found = first
            elif ending in _BUILT_IN and found is not Kind.SECRET:
                found = _BUILT_IN[ending]
        if found is None and words:
            return Kind.WORD if words == _WHOLE else self._together(words[-1])
        return found

    def _together(self, word: str) -> Kind | None:
        """Judge a word that may consist of several, written together."""
        if word[-3:] not in _LAST_LETTERS:
            return None
        if word in secret_names.HARMLESS_WORDS or word.endswith(self._harmless_together):
            return Kind.HARMLESS
        if word.endswith(secret_names.RUN_TOGETHER) or word in secret_names.SHORT_RUN_TOGETHER:
            return Kind.SECRET
        if word.endswith(secret_names.WORDS_RUN_TOGETHER):
            return Kind.WORD
        before = _TOGETHER.sub("", word, count=1)
        if before != word and before.endswith(secret_names.RUN_TOGETHER):
            return Kind.SECRET
        return None

    def _followed(self, words: Sequence[str]) -> Kind | None:
        """Judge a name by the words before a suffix that does not change its meaning, or before a number."""
        count = len(words)
        if not words or not (words[-1] in secret_names.LATER_WORDS or words[-1].isdecimal()):
            return None
        while count > 0 and len(words) - count < secret_names.MAX_LATER_WORDS:
            last = words[count - 1]
            if not (last.isdecimal() or last in secret_names.LATER_WORDS):
                break
            count -= 1
        if count == 0 or words[count - 1] in secret_names.NEVER_FOLLOWED:
            return None
        kind = self._judge(words[:count])
        # `token_1` is as often part of a text.
        is_numbered_word = kind is Kind.WORD and count == 1 and all(word.isdecimal() for word in words[1:])
        return None if kind is Kind.SEVERAL or is_numbered_word else kind
