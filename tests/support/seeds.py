"""The samples in the dialects' documents, from tests/seeds."""

import re
from collections.abc import Mapping
from functools import cache

from tests.support.tools import ROOT

FOLDER = ROOT / "tests" / "seeds"
DOCUMENTS = ROOT.parent / "shared" / "seeds"
"""The documents, if they are next to the project."""

_BLOCK = re.compile(r"^```\w+ (\S+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@cache
def samples(number: str) -> dict[str, str]:
    """Return the samples of a document by their names."""
    return dict(_BLOCK.findall((FOLDER / f"{number}.md").read_text()))


def sample(number: str, name: str, replaced: Mapping[str, str]) -> str:
    """Return one sample with replacements for its placeholders, each of which must occur."""
    text = samples(number)[name]
    for old, new in replaced.items():
        assert old in text, f"{number} {name}: {old}"
        text = text.replace(old, new)
    return text
