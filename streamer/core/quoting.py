"""Limits for quoting a client's input in an error or a log line, however long the input is."""

import re
from collections.abc import Mapping
from itertools import islice
from typing import Any, Final

MAX_QUOTED: Final = 100
"""Characters of a field's name or value that an error quotes."""
MAX_TEXT: Final = 1000
"""Characters of any text in an error, and of a text in a log line."""
MAX_NAMED: Final = 50
"""Fields that an error names, and items of any list or object in it."""

_BROKEN_WORD: Final = re.compile(r"(?<![\w.~+/=-])[\w.~+/=-]{1,60}\Z")
"""A short word at the end: it may be the beginning of a token, too short for the redactor to recognize."""


def cut(text: str, limit: int = MAX_QUOTED) -> str:
    """Truncate a text to at most `limit` characters and an ellipsis; a word at the cut is left out."""
    if len(text) <= limit:
        return text
    # Only the end is searched: a word starts there, or is long enough to stay.
    start = max(limit - MAX_QUOTED, 0)
    return f"{text[:start]}{_BROKEN_WORD.sub('', text[start:limit])}…"


def cut_names(fields: Mapping[str, str], total: int | None = None) -> dict[str, str]:
    """Truncate the names of invalid fields; of more than `MAX_NAMED` keep the first, and add their number.

    Args:
        fields: the problem of each field.
        total: their number, if `fields` does not have all of them.
    """
    total = len(fields) if total is None else total
    result = {cut(name): text for name, text in islice(fields.items(), MAX_NAMED)}
    if total > MAX_NAMED:
        result["and more"] = f"at least {total} fields are invalid; these are the first"
    return result


def bounded(value: Any) -> Any:
    """Return a value for an error with its texts truncated and its lists and objects shortened."""
    if isinstance(value, str):
        return cut(value, MAX_TEXT)
    if isinstance(value, Mapping):
        return {cut(name): bounded(item) for name, item in islice(value.items(), MAX_NAMED + 1)}
    if isinstance(value, list | tuple):
        return [bounded(item) for item in value[: MAX_NAMED + 1]]
    return value
