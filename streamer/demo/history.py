"""Converts commits into events: a repository's history as issues that people, agents and bots worked on."""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from streamer.core.clock import format_timestamp
from streamer.demo.git import Commit, GitError, read_commits, read_identities
from streamer.demo.personas import Personas
from streamer.demo.scenario import Change, Event, Issue

MAX_COMMITS = 300
LONGEST_PAUSE = 5 * 86400
"""After this many seconds without a commit, an author's next commit belongs to another issue."""
MOST_CHANGES = 4


@dataclass(frozen=True, slots=True)
class Past:
    """A repository's history as a story."""

    personas: Personas
    events: list[Event]
    """Ordered by time; those at the end without a time follow from the newest commits and happen now."""
    issues: int


def history(repository: Path, *, seed: int, max_commits: int = MAX_COMMITS) -> Past:
    """Convert a repository's newest commits.

    Args:
        repository: a folder in a git working tree, or a bare repository.
        seed: the same seed and commits give the same events.
        max_commits: the number of commits; nothing more of a long history is read, except names.

    Raises:
        GitError: this is not a repository with a commit.
    """
    commits = list(read_commits(repository, limit=max_commits))
    if not commits:
        raise GitError(f"{repository}: no commit")
    commits.reverse()
    named = read_identities(repository).union(*(commit.names for commit in commits))
    personas = Personas(seed, (commit.author for commit in commits), named)
    issues = list(_issues(commits, personas))
    events = [
        event
        for number, changes in enumerate(issues, 1)
        for event in Issue(number, changes, personas, _dice(personas, changes)).events()
    ]
    events.sort(key=lambda event: str(event["occurred_at"]))
    newest = format_timestamp(max(commit.time for commit in commits) * 1_000_000)
    for event in events:
        if event["occurred_at"] > newest:  # its time may still be in the future
            del event["occurred_at"]
    return Past(personas, events, len(issues))


def _issues(commits: Iterable[Commit], personas: Personas) -> Iterator[list[Change]]:
    """Group an author's commits into issues; a merge ends an issue."""
    changes: list[Change] = []
    wanted = 0
    for commit in commits:
        if commit.is_merge and changes:
            yield changes
            changes = []
            continue
        change = _change(commit, personas)
        follows = bool(changes) and changes[-1].author == change.author and _pause(changes[-1], change) < LONGEST_PAUSE
        if changes and not (follows and len(changes) < wanted):
            yield changes
            changes = []
        if not changes:
            wanted = 1 + int(change.code[0], 16) % MOST_CHANGES
        changes.append(change)
    if changes:
        yield changes


def _change(commit: Commit, personas: Personas) -> Change:
    # The real hash would identify the real people wherever the repository is public.
    code = sha256(f"{personas.seed}:{commit.sha}".encode()).hexdigest()[:40]
    title = "Bring two branches together" if commit.is_merge else personas.title(commit.message)
    return Change(code, title, personas.member(commit.author), commit.files, commit.added, commit.deleted, commit.time)


def _pause(earlier: Change, later: Change) -> int:
    return (later.time or 0) - (earlier.time or 0)


def _dice(personas: Personas, changes: list[Change]) -> random.Random:
    return random.Random(f"{personas.seed}:{changes[0].code}")  # noqa: S311 - the same story again is the point
