"""Plain English: documents, docstrings, comments, help texts and messages avoid the phrases of a word list."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.tools import ROOT

# The files and folders that are checked. Add a folder when its text passes.
DONE = [
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "README.md",
    "THREAT_MODEL.md",
    "Dockerfile",
    "bench",
    "deploy",
    "docker-compose.yml",
    "docs",
    "run",
    "static",
    "streamer",
    "tests",
]

SUFFIXES = {".py", ".md", ".js", ".mjs", ".css", ".html", ".yml", ".conf"}
# Other people's texts, and this file, which quotes the phrases.
SKIPPED = {"node_modules", "seeds", Path(__file__).name}

# Phrases to avoid and their replacements. Each phrase is a regular expression in which a space also matches a line
# break.
WORDS = {
    r"at the (?:most|least)": "at most, at least",
    r"(?:\w+ )?anew": "again; rebuilt, recreated",
    r"for ever": "indefinitely, forever",
    r"(?:parted|parts) by": "separated by",
    r"(?:tells?|told|telling) of": "records, reports, announces",
    r"(?:is|are|was|were) not to": "must not",
    r"(?:sees?|saw) that": "ensures, requires",
    r"(?:for|by|from|to|with|than|of|and|but) whoe?v?e?r? (?:is|are|has|have|may|reads?|sends?|makes?|lacks?|only|can|does)": "callers that ...",
    r"(?:is|are|was|were) said": "is reported, is logged",
    r"for whom": "for callers that ...",
    r"holes?": "gap",
    r"(?:come|comes|came|coming) back": "reconnects, returns",
    r"Python's lock": "the GIL",
    r"(?:something|nothing|anything|what) else than": "other than",
    r"the ones? (?:that|who|which)": "name the thing",
    r"(?:position|positions|event|events|seq|seqs|begins?|starts?|stands?|goes on|go on|is|are|comes?|what is|all|exactly) behind (?:it|that|them|an?|the|its|their)"
    r" (?:last|first|position|event|seq|cursor|row|page)": "after",
    r"(?:not|is) heard": "is ignored, is read",
    r"looks? whether": "checks whether",
    r"for so long": "for this long; until ...",
    r"but for (?!each|every|which|that)\w+": "except for",
    r"(?:credential|key|ticket|token|session|grant|role)s? (?:that |has |have |which |and )*end(?:s|ed)?(?! with)": "expires, is revoked",
    r"waits? for the disk": "is queued",
}
GAP = r"(?:\s|\n\s*(?:#|//|\*)\s*)+"
PATTERNS = [(re.compile(rf"\b{words.replace(' ', GAP)}\b", re.IGNORECASE), instead) for words, instead in WORDS.items()]
# "Who may read..." as the subject of a sentence. Questions are allowed.
VERBS = "is|are|has|have|may|reads?|sends?|only|can|does|lacks?|makes?|calls?"
WHO = re.compile(rf"(?:^[\s#/*-]*W|[.:;(|]\s+[Ww])ho(?:ever)?\s(?:{VERBS})\b(?![^.]*\?)", re.MULTILINE)
PATTERNS.append((WHO, "Callers that ..."))


def _files(name: str) -> list[Path]:
    path = ROOT / name
    assert path.exists(), f"{name}: renamed? change DONE"
    if path.is_file():
        return [path]
    return sorted(
        each for each in path.rglob("*") if each.suffix in SUFFIXES and SKIPPED.isdisjoint(each.relative_to(path).parts)
    )


def _blanked(text: str, spans: re.Pattern[str]) -> str:
    """Replace matches by spaces; keep line breaks."""
    return spans.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)


def _prose(path: Path, text: str) -> Iterator[tuple[int, str]]:
    """Yield each piece of prose in a file with its first line."""
    if path.suffix == ".md":
        yield 1, _blanked(text, re.compile(r"^\s*```\w.*?^\s*```|`[^`\n]*`", re.DOTALL | re.MULTILINE))
    elif path.suffix == ".py":
        comments: list[tuple[int, str]] = []
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                line, comment = token.start[0], token.string
                if comments and comments[-1][0] + comments[-1][1].count("\n") + 1 == line:
                    comments[-1] = (comments[-1][0], f"{comments[-1][1]}\n{comment}")
                else:
                    comments.append((line, comment))
        yield from comments
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
                yield node.lineno, node.value
    else:
        yield 1, text


def _findings(path: Path, text: str) -> list[str]:
    found = []
    for line, piece in _prose(path, text):
        for pattern, instead in PATTERNS:
            for match in pattern.finditer(piece):
                number = line + piece.count("\n", 0, match.start())
                phrase = re.sub(r"[\s#]+", " ", match[0]).strip()[:60]
                found.append(f"{path.relative_to(ROOT)}:{number}: {phrase!r}: write {instead}")
    return found


@pytest.mark.parametrize("name", DONE)
def test_plain_english(name: str) -> None:
    """A checked file contains no phrase of the word list."""
    found = [each for path in _files(name) for each in _findings(path, path.read_text())]
    assert not found, "\n".join(["", *found])


@pytest.mark.parametrize(
    "text",
    [
        "It takes 5\n# at the most.",
        "It is made anew.",
        "Who reads only its own may not read them.",
        "the key is left out: who has none asks",
        "values, parted by commas",
        "the event that tells of it",
        "a stream goes on behind the last event",
    ],
)
def test_phrases_are_found(text: str) -> None:
    """Phrases are found across line breaks, in comments and in strings."""
    for source in ("# " + text.replace("\n# ", "\n# "), f'"""{text}"""\n'):
        assert _findings(ROOT / "sample.py", source), source


@pytest.mark.parametrize(
    "text",
    [
        "Run it behind nginx.",
        "Who may read audit events?",
        "A reader that is behind catches up.",
        "at most 5",
        "See the log.",
    ],
)
def test_plain_sentences_pass(text: str) -> None:
    """Sentences that merely resemble a phrase are accepted."""
    assert not _findings(ROOT / "sample.py", f'"""{text}"""\n')
