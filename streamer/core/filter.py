"""One grammar of filters for history, streams and export, compiled once.

A filter is a conjunction of conditions. A condition is a list of values of one field (OR) or, with a leading `!`, a
list of excluded values. This module parses the grammar and evaluates filters in memory; `store.log.predicate` does the same
in SQL, and a property test checks that they agree.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from sys import getsizeof

from streamer.core.errors import ValidationError
from streamer.core.event import FACET_FIELDS, Facets, casefold_ascii

CATEGORIES = ("activity", "audit")
MAX_VALUES = 100
"""Values in one filter, over all its fields."""
MAX_VALUE_LENGTH = 512
"""Characters in one value; no stored value is longer."""
MAX_TEXT = 2 * MAX_VALUES * (MAX_VALUE_LENGTH + 1)
"""Characters of all values as they are sent: each can be escaped with a backslash."""

VALUE_BYTES = 64
"""Memory of a value in its set, in addition to its text."""

FILTER_FIELDS = (*FACET_FIELDS, "q")
"""The names of the query parameters that make a filter."""

_Order = tuple[tuple[str, bool, list[str], tuple[str, ...], tuple[str, ...]], ...]

_INDEX = {name: index for index, name in enumerate(Facets._fields)}
_SEARCH = _INDEX["search"]


@dataclass(frozen=True, slots=True)
class Condition:
    """One field's list: `values` match exactly, `prefixes` (of actions) at their beginning, `suffixes` at their end.

    An empty prefix matches any value. Suffixes are not part of the grammar; a dialect uses them (`dialects.praisonai`).
    """

    field: str
    values: frozenset[str]
    prefixes: tuple[str, ...] = ()
    exclude: bool = False
    suffixes: tuple[str, ...] = ()

    def matches(self, facets: Facets) -> bool:
        """Return whether an event with these facets passes; an absent value is in no list."""
        if self.field == "q":
            found = any(text in facets.search for text in self.values)
        else:
            value = facets[_INDEX[self.field]]
            found = value in self.values or (
                value is not None and (value.startswith(self.prefixes) or value.endswith(self.suffixes))
            )
        return found is not self.exclude

    @property
    def order(self) -> "_Order":
        """The key that sorts conditions into canonical order."""
        return ((self.field, self.exclude, sorted(self.values), self.prefixes, self.suffixes),)


@dataclass(frozen=True, slots=True)
class Either:
    """A disjunction, which is not part of the grammar; a principal's visibility uses it (`access.principal`)."""

    conditions: tuple[Condition, ...]

    def matches(self, facets: Facets) -> bool:
        """Return whether an event with these facets passes one of the conditions."""
        return any(condition.matches(facets) for condition in self.conditions)

    @property
    def order(self) -> "_Order":
        """The key that sorts it among conditions."""
        return tuple(chain.from_iterable(condition.order for condition in self.conditions))


@dataclass(frozen=True, slots=True)
class Filter:
    """A conjunction of conditions in canonical order: equal filters are equal objects, and so share a cohort."""

    conditions: tuple[Condition | Either, ...] = ()

    def searched(self) -> list[str]:
        """Return the texts to find in an event's search text: they make a filter expensive."""
        return [
            text
            for condition in self.conditions
            if isinstance(condition, Condition) and condition.field == "q"
            for text in condition.values
        ]

    def size(self) -> int:
        """Return the approximate memory of the filter's values in bytes."""
        values = [
            value
            for condition in self.conditions
            if isinstance(condition, Condition)
            for value in (*condition.values, *condition.prefixes, *condition.suffixes)
        ]
        return sum(map(getsizeof, values)) + VALUE_BYTES * len(values)

    def matches(self, facets: Facets) -> bool:
        """Return whether an event with these facets passes every condition."""
        for condition in self.conditions:  # noqa: SIM110 - a plain loop: this runs for each event and each distinct filter
            if not condition.matches(facets):
                return False
        return True

    def narrowed(self, other: "Filter") -> "Filter":
        """Return the filter for events that pass both."""
        return canonical((*self.conditions, *other.conditions)) if other.conditions else self


EVERYTHING = Filter()
AUDIT_ONLY = Condition("category", frozenset({"audit"}))
NOT_AUDIT = Condition("category", frozenset({"audit"}), exclude=True)


def canonical(conditions: Iterable[Condition | Either]) -> Filter:
    """Create a filter from conditions: sorted, without duplicates."""
    return Filter(tuple(sorted(set(conditions), key=lambda condition: condition.order)))


def parse_filter(parameters: Mapping[str, Sequence[str]]) -> Filter:
    """Compile the filter parameters of a query (each name with all its values, in order); other names are ignored.

    A value is a list separated by commas; repeating a parameter extends its list. A leading `!` excludes the whole
    list; included and excluded lists of a field are separate conditions. A trailing `*` in an action matches any rest.
    A backslash escapes the next character, so that any stored value can be written. `q` is plain text, without lists or
    backslashes.

    Raises:
        ValidationError: an invalid value, by field.
    """
    conditions: list[Condition] = []
    wrong: dict[str, str] = {}
    count = 0
    given = [raw for field in FILTER_FIELDS for raw in parameters.get(field, ())]
    # Checked before the values are parsed: an invalid filter must cost nothing.
    if len(given) > MAX_VALUES or sum(map(len, given)) > MAX_TEXT:
        raise ValidationError({"filter": f"at most {MAX_VALUES} values in all, and {MAX_TEXT} characters"})
    lists = [raw for field in FACET_FIELDS for raw in parameters.get(field, ())]
    if sum(raw.count(",") - raw.count("\\,") for raw in lists) >= MAX_VALUES:
        raise ValidationError({"filter": f"at most {MAX_VALUES} values in all"})
    for field in FILTER_FIELDS:
        included: list[tuple[str, bool]] = []
        excluded: list[tuple[str, bool]] = []
        for raw in parameters.get(field, ()):
            text, into = (raw[1:], excluded) if raw.startswith("!") else (raw, included)
            try:
                into.extend(_values(field, text))
            except ValueError as error:
                wrong[field] = str(error)
        count += len(included) + len(excluded)
        conditions.extend(_conditions(field, included, exclude=False))
        conditions.extend(_conditions(field, excluded, exclude=True))
    if count > MAX_VALUES:
        wrong["filter"] = f"{count} values; at most {MAX_VALUES} in all"
    if wrong:
        raise ValidationError(wrong)
    return canonical(conditions)


def _conditions(field: str, items: list[tuple[str, bool]], *, exclude: bool) -> list[Condition]:
    if not items:
        return []
    values = frozenset(value for value, is_prefix in items if not is_prefix)
    prefixes = tuple(sorted({value for value, is_prefix in items if is_prefix}))
    return [Condition(field, values, prefixes, exclude)]


def _values(field: str, text: str) -> list[tuple[str, bool]]:
    """Return (value, is a prefix) for each item of a list."""
    items = [(casefold_ascii(text), False)] if field == "q" else [_item(field, item) for item in _split(text)]
    for value, is_prefix in items:
        if not value and not is_prefix:
            raise ValueError("an empty value matches nothing")
        if len(value) > MAX_VALUE_LENGTH:
            raise ValueError(f"a value is longer than {MAX_VALUE_LENGTH} characters")
        if "\0" in value:
            raise ValueError("a value contains the character U+0000, which no stored value has")
        if field == "category" and value not in CATEGORIES:
            raise ValueError(f"must be one of {', '.join(CATEGORIES)}")
    return items


def _split(text: str) -> list[list[tuple[str, bool]]]:
    """Split a list at its commas; an item is its characters, each with whether it was escaped."""
    items: list[list[tuple[str, bool]]] = [[]]
    escaped = False
    for char in text:
        if escaped:
            items[-1].append((char, True))
            escaped = False
        elif char == "\\":
            escaped = True
        elif char == ",":
            items.append([])
        else:
            items[-1].append((char, False))
    if escaped:
        raise ValueError("ends with a backslash that escapes nothing")
    return items


def _item(field: str, chars: list[tuple[str, bool]]) -> tuple[str, bool]:
    value = "".join(char for char, _ in chars)
    if field != "action" or ("*", False) not in chars:
        return value, False
    if chars.index(("*", False)) != len(chars) - 1 or (len(chars) > 1 and value[-2] != "."):
        raise ValueError("`*` is allowed only as the last part of an action, as in issue.*")
    return value[:-1], True


def escape(field: str, value: str) -> str:
    """Write a value so that the grammar reads it as itself."""
    if field == "q":
        return value
    special = "\\,!*" if field == "action" else "\\,!"
    return "".join("\\" + char if char in special else char for char in value)
