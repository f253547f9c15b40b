"""The samples of the documents whose APIs the dialects serve, as tests/seeds has them."""

import re
from collections.abc import Mapping
from functools import cache

from tests.support.tools import ROOT

FOLDER = ROOT / "tests" / "seeds"
DOCUMENTS = ROOT.parent / "shared" / "seeds"
"""The documents themselves, where they are beside the project."""

_BLOCK = re.compile(r"^```\w+ (\S+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@cache
def samples(number: str) -> dict[str, str]:
    """Return the samples of a document by their names."""
    return dict(_BLOCK.findall((FOLDER / f"{number}.md").read_text()))


def sample(number: str, name: str, replaced: Mapping[str, str]) -> str:
    """Return one sample with what its reader is to fill in: each text, which must be there, gives way to its value."""
    text = samples(number)[name]
    for old, new in replaced.items():
        assert old in text, f"{number} {name}: {old}"
        text = text.replace(old, new)
    return text
