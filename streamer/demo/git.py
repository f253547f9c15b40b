"""Reads a git history lazily from git itself: single commits, merges, renames, any bytes in names and messages."""

import contextlib
import os
import re
import subprocess
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

LATEST = 253_400_000_000
"""In the year 9999; git accepts later times, too."""

_MARK = b"commit"
_FIELDS = ("H", "P", "an", "ae", "aN", "aE", "cn", "ce", "ct", "B")
_NUMSTAT = re.compile(rb"\n?(\d+|-)\t(\d+|-)\t(.*)", re.DOTALL)
_TRAILER = re.compile(r"^[A-Za-z-]+-by:\s*([^<\n]*?)\s*<([^>\n]*)>", re.MULTILINE | re.IGNORECASE)
_NAMES_COMMITS = 50_000
"""How many commits are searched for names: a message may mention a person who left long ago."""


class GitError(Exception):
    """There is no git, no repository or no commit; the message says which."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A person or machine in git's form. Not to be shown."""

    name: str
    email: str


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit, with the fields that a story needs."""

    sha: str
    parents: int
    author: Identity
    names: frozenset[Identity]
    """All people in the commit: author, committer, trailers, also without the mailmap."""
    time: int
    """The committer's clock, seconds since 1970."""
    message: str
    files: int
    added: int
    deleted: int

    @property
    def is_merge(self) -> bool:
        """Whether it joins branches."""
        return self.parents > 1


def read_commits(repository: Path, *, limit: int) -> Generator[Commit]:
    """Yield the newest commits of HEAD, newest first, while git finds them.

    Raises:
        GitError: this is not a repository with a commit.
    """
    form = "--format=%x00commit%x00" + "%x00".join(f"%{field}" for field in _FIELDS) + "%x00"
    with _git(repository, "log", "-z", "--numstat", "-M", "-l200", f"--max-count={limit}", form, "HEAD", "--") as out:
        tokens = _tokens(out)
        header: list[bytes] = []
        counts = [0, 0, 0]
        for token in tokens:
            stat = _NUMSTAT.fullmatch(token)
            if token == _MARK:
                if header:
                    yield _commit(header, counts)
                header = [next(tokens, b"") for _ in _FIELDS]
                counts = [0, 0, 0]
            elif stat is not None:
                counts[0] += 1
                counts[1] += int(stat[1]) if stat[1] != b"-" else 0
                counts[2] += int(stat[2]) if stat[2] != b"-" else 0
                if not stat[3]:  # a rename: the old and the new path follow as separate tokens
                    next(tokens, None)
                    next(tokens, None)
        if header:
            yield _commit(header, counts)


def read_identities(repository: Path) -> set[Identity]:
    """Return all authors and committers, far beyond the commits of the story.

    Raises:
        GitError: this is not a repository with a commit.
    """
    form = "--format=%an%x00%ae%x00%aN%x00%aE%x00%cn%x00%ce"
    found: set[Identity] = set()
    with _git(repository, "log", "-z", f"--max-count={_NAMES_COMMITS}", form, "HEAD", "--") as out:
        tokens = _tokens(out)
        for token in tokens:
            found.add(Identity(_text(token), _text(next(tokens, b""))))
    return found


def _commit(header: list[bytes], counts: list[int]) -> Commit:
    sha, parents, name, email, mapped_name, mapped_email, committer, committer_email, time, message = map(_text, header)
    trailers = {Identity(*found) for found in _TRAILER.findall(message)}
    return Commit(
        sha=sha,
        parents=len(parents.split()),
        author=Identity(mapped_name, mapped_email),
        names=frozenset({Identity(name, email), Identity(mapped_name, mapped_email), Identity(committer, committer_email)} | trailers),
        time=min(int(time), LATEST) if time.isdecimal() else 0,
        message=message,
        files=counts[0],
        added=counts[1],
        deleted=counts[2],
    )  # fmt: skip


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _tokens(out: IO[bytes]) -> Iterator[bytes]:
    """Yield the parts between NULs, without holding more than a piece of the output."""
    rest: list[bytes] = []
    while data := out.read(2**16):
        first, *others = data.split(b"\0")
        rest.append(first)
        for following in others:
            yield b"".join(rest)
            rest = [following]
    if any(rest):
        yield b"".join(rest)


@contextlib.contextmanager
def _git(repository: Path, command: str, *arguments: str) -> Generator[IO[bytes]]:
    """Run git and yield its output; no configuration of the repository or the user can run or colour anything."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    options = ("--no-color", "--no-ext-diff", "--no-textconv", "--no-show-signature", "--no-notes", "--encoding=UTF-8")
    try:
        process = subprocess.Popen(  # noqa: S603 - the arguments are our own
            ["git", "-C", str(repository), "--no-pager", "-c", "core.fsmonitor=false", command, *options, *arguments],  # noqa: S607
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment | {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0", "GIT_NO_LAZY_FETCH": "1"},
        )
    except OSError as error:
        raise GitError(f"git cannot be started: {error.strerror}") from None
    with process:
        assert process.stdout is not None  # noqa: S101 - asked for above
        assert process.stderr is not None  # noqa: S101
        try:
            yield process.stdout
        except BaseException:
            process.kill()
            raise
        said = process.stderr.read().decode("utf-8", "replace").strip()
        if process.wait() != 0:
            raise GitError(f"{repository}: {said.splitlines()[0].removeprefix('fatal: ') if said else 'git failed'}")
