"""The events of one issue for the API, from its report to its end."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from streamer.core.clock import format_timestamp
from streamer.demo.personas import Member, Personas

Event = dict[str, Any]

BEFORE_SECONDS = (600, 36 * 3600)
"""How long before its first change an issue was reported."""
STEP_SECONDS = (20, 900)

_PRIORITIES = ("low", "medium", "high", "urgent")
_COMMENTS = (
    "I can reproduce this on the staging system.",
    "Looks good so far. Please add a test for the empty case.",
    "Could we keep the old name for one more release?",
    "The numbers are better than I hoped: down from 480 ms to 35 ms.",
    "Not sure about the second part, let us talk tomorrow.",
    "Thanks! That was the last one that blocked the release.",
    "I left two small remarks, nothing that has to hold this up.",
    "Found the cause: the cache was never told about the change.",
)
_REVISIONS = (
    "Please split the change in two.",
    "A test for the error path is missing.",
    "The message for users is too vague.",
)


@dataclass(frozen=True, slots=True)
class Change:
    """A change that was made for an issue."""

    code: str
    title: str
    author: Member
    files: int
    added: int
    deleted: int
    time: int | None = None
    """Seconds since 1970; None: it happens now."""


@dataclass
class _Clock:
    """Times that only increase; None when the story happens now."""

    dice: random.Random
    now: int | None

    def step(self) -> str | None:
        """Advance by a short time."""
        if self.now is not None:
            self.now += self.dice.randint(*STEP_SECONDS)
        return self.text()

    def to(self, time: int | None) -> str | None:
        """Advance to `time`, unless it is in the past."""
        if self.now is not None and time is not None:
            self.now = max(self.now, time)
        return self.text()

    def text(self) -> str | None:
        """Return the time in the API's format."""
        return None if self.now is None else format_timestamp(self.now * 1_000_000)


@dataclass
class Issue:
    """The story of one issue. `changes` is not empty."""

    number: int
    changes: Sequence[Change]
    personas: Personas
    dice: random.Random
    entity: Event = field(init=False)
    worker: Member = field(init=False)
    owner: Member = field(init=False)
    """The person behind the worker, if that is an agent; else a reviewer."""
    run: str | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        dice, author = self.dice, self.changes[0].author
        self.entity = {
            "type": "issue",
            "id": f"issue-{self.number}",
            "identifier": f"DEMO-{self.number}",
            "name": self.changes[0].title,
        }
        self.owner = dice.choice([person for person in self.personas.people if person != author])
        self.worker = author
        if author.type == "user" and dice.random() < 0.4:  # noqa: PLR2004 - agents do their share
            self.worker, self.owner = dice.choice(self.personas.agents), author
        if self.worker.type == "agent":
            self.run = f"run-{self.number}-{dice.randrange(16**6):06x}"

    def events(self) -> Iterator[Event]:
        """Yield the issue's events in order."""
        start = self.changes[0].time
        clock = _Clock(self.dice, None if start is None else max(0, start - self.dice.randint(*BEFORE_SECONDS)))
        for event, time in self._plot(clock):
            if time is not None:
                event["occurred_at"] = time
            yield event

    def _plot(self, clock: _Clock) -> Iterator[tuple[Event, str | None]]:
        dice, personas = self.dice, self.personas
        is_agent = self.worker.type == "agent"
        reporter = self.owner if is_agent else dice.choice(personas.people)
        priority = dice.choice(_PRIORITIES)
        title = self.entity["name"]
        yield (
            self._event("issue.created", reporter, {"title": title, "priority": priority, "status": "todo"}),
            clock.text(),
        )
        if dice.random() < 0.3:  # noqa: PLR2004
            other = dice.choice([other for other in _PRIORITIES if other != priority])
            yield self._update(personas.bots[-1], "priority", priority, other), clock.step()
        if is_agent:
            yield self._update(self.owner, "assignee", None, self.worker.id), clock.step()
            agent = {"type": "agent", "id": self.worker.id, "name": self.worker.name}
            yield self._event("heartbeat.invoked", self.worker, {"source": "assignment"}, entity=agent), clock.step()
            yield self._event("issue.checked_out", self.worker, {}), clock.step()
        yield self._update(self.worker, "status", "todo", "in_progress"), clock.step()
        for change in self.changes:
            yield self._push(change), clock.to(change.time)
            if dice.random() < 0.3:  # noqa: PLR2004
                comment = {"body": dice.choice(_COMMENTS)}
                yield self._event("issue.comment_added", dice.choice(personas.people), comment), clock.step()
        yield from self._review(clock)
        yield self._update(self.worker, "status", "in_progress", "done"), clock.step()
        if is_agent:
            run = {"type": "run", "id": self.run, "name": f"{self.worker.name} on {self.entity['identifier']}"}
            result = {"turns": dice.randint(4, 60), "cost_cents": dice.randint(3, 240)}
            yield self._event("run.completed", self.worker, result, entity=run), clock.step()

    def _review(self, clock: _Clock) -> Iterator[tuple[Event, str | None]]:
        """Yield the steps to merge the changes: pull request, checks, and an approval if an agent asks for one."""
        dice, ci = self.dice, self.personas.bots[0]
        pull = {
            "type": "pull",
            "id": f"pull-{self.number}",
            "identifier": f"PR-{self.number}",
            "name": self.entity["name"],
        }
        yield self._event("pull.opened", self.worker, {"commits": len(self.changes)}, entity=pull), clock.step()
        if dice.random() < 0.2:  # noqa: PLR2004
            yield self._event("build.failed", ci, {"failed_tests": dice.randint(1, 7)}, entity=pull), clock.step()
        yield self._event("build.passed", ci, {"seconds": dice.randint(40, 600)}, entity=pull), clock.step()
        if self.worker.type != "agent":
            yield self._event("pull.approved", self.owner, {}, entity=pull), clock.step()
        else:
            approval = {"type": "approval", "id": f"approval-{self.number}", "name": f"Merge {pull['identifier']}"}
            yield self._event("approval.created", self.worker, {}, entity=approval), clock.step()
            if dice.random() < 0.25:  # noqa: PLR2004
                note = {"note": dice.choice(_REVISIONS)}
                yield self._event("approval.revision_requested", self.owner, note, entity=approval), clock.step()
                yield self._event("approval.resubmitted", self.worker, {}, entity=approval), clock.step()
            yield self._event("approval.approved", self.owner, {}, entity=approval), clock.step()
        yield self._event("pull.merged", self.owner, {}, entity=pull), clock.step()

    def _push(self, change: Change) -> Event:
        author = self.worker if change is self.changes[0] or self.worker.type == "agent" else change.author
        commit = {"type": "commit", "id": change.code, "identifier": change.code[:7], "name": change.title}
        details = {"files": change.files, "added": change.added, "deleted": change.deleted}
        event = self._event("commit.pushed", author, details, entity=commit)
        return event | {"description": f"{author.name} pushed {change.code[:7]}: {change.title}"}

    def _update(self, who: Member, name: str, before: str | None, after: str) -> Event:
        event = self._event("issue.updated", who, {name: after, "_previous": {name: before}})
        return event | {"description": f"{who.name} set {name} of {self.entity['identifier']} to {after}"}

    def _event(self, action: str, who: Member, details: Event, *, entity: Event | None = None) -> Event:
        acts_for = self.owner if who.type == "agent" else None
        event: Event = {
            "action": action,
            "actor": who.actor(acts_for),
            "entity": entity or self.entity,
            "task_id": self.entity["id"],
            "details": details,
        }
        if who.type == "agent":
            event |= {"agent_id": who.id, "run_id": self.run}
        return event
