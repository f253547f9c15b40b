"""The same personas at work indefinitely: new issues, several at once, as on a busy day."""

import random
from collections.abc import Iterator

from streamer.demo.personas import Personas
from streamer.demo.scenario import Change, Event, Issue

AT_ONCE = 6
"""Number of concurrent issues."""

_VERBS = ("Fix", "Add", "Speed up", "Simplify", "Document", "Test", "Rework", "Translate", "Measure", "Protect")
_THINGS = (
    "the login page", "the export to CSV", "the search in long lists", "the nightly import", "the invoice layout",
    "the retry of failed uploads", "the settings of a workspace", "the notification mails", "the start of the app",
    "the upgrade of old accounts", "the date picker", "the rate limit", "the audit report", "the keyboard shortcuts",
    "the dark theme", "the onboarding", "the webhook signatures", "the calendar sync",
)  # fmt: skip
_ENDS = ("", "", "", " for large teams", " on slow networks", " in Safari", " after a restart", " without a mouse")


def generate(personas: Personas, *, first_issue: int = 1) -> Iterator[Event]:
    """Yield new events indefinitely; `first_issue` is the number of the first new issue.

    They have no time of their own: they happen when they are appended.
    """
    dice = random.Random(f"{personas.seed}:living:{first_issue}")  # noqa: S311 - the same story again is the point
    number = first_issue
    open_issues: list[Iterator[Event]] = []
    while True:
        # Never all at once: the first issues start while others are in the middle.
        if len(open_issues) < AT_ONCE and (not open_issues or dice.random() < 0.3):  # noqa: PLR2004
            open_issues.append(Issue(number, _changes(personas, dice), personas, dice).events())
            number += 1
        issue = dice.choice(open_issues)
        event = next(issue, None)
        if event is None:
            open_issues.remove(issue)
        else:
            yield event


def _changes(personas: Personas, dice: random.Random) -> list[Change]:
    title = f"{dice.choice(_VERBS)} {dice.choice(_THINGS)}{dice.choice(_ENDS)}"
    author = dice.choice([*personas.people, *personas.agents])
    return [
        Change(
            code=f"{dice.randrange(16**40):040x}",
            title=title,
            author=author,
            files=dice.randint(1, 9),
            added=dice.randint(1, 240),
            deleted=dice.randint(0, 120),
        )
        for _ in range(dice.randint(1, 3))
    ]
