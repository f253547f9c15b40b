"""The programs in the documentation, unchanged."""

import re
from functools import cache

from tests.support.tools import ROOT

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_NAME = re.compile(r"(?://|#) ([\w.-]+)\n")


@cache
def snippets(page: str = "streaming.md") -> dict[str, str]:
    """Return each code block of a page by the file name in its first line."""
    found: dict[str, str] = {}
    for _, text in _BLOCK.findall((ROOT / "docs" / page).read_text()):
        name = _NAME.match(text)
        assert name, f"a code block without a name:\n{text}"
        assert name[1] not in found, f"{name[1]} is a duplicate name"
        found[name[1]] = text
    return found
