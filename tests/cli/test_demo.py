"""The demo turns a git history into an anonymous story, and then generates new events."""

import asyncio
import json
import os
import re
import shlex
import signal
import socket
import stat
import subprocess
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamer.client import ApiError, Client, seq_of
from streamer.demo.generator import generate
from streamer.demo.git import GitError, Identity, read_commits
from streamer.demo.history import history
from streamer.demo.personas import Personas
from streamer.http.models import check
from streamer.http.native import schemas
from tests.support.api import Api
from tests.support.cli import Cli
from tests.support.databases import sqlite_url
from tests.support.tools import require
from tests.support.waiting import SECONDS, eventually

JANE = Identity("Jane Doeberman", "jane.doeberman@acme-rockets.example")
WEI = Identity("Li Wei", "wei@example.org")
ZOE = Identity("Zoë O'Hanlon-Szymańska", "zoehanlon@users.noreply.github.com")
BOT = Identity("dependabot[bot]", "49699333+dependabot[bot]@users.noreply.github.com")
REAL = re.compile(
    r"jane|doeberman|\bwei\b|\bLi\b|zoë|zoe|hanlon|szyma|acme|rockets|example|mallory|@|dependabot|noreply|https?:",
    re.IGNORECASE,
)
"""Texts that no event may contain."""


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """Run on one kind of database only, because the demo uses its own SQLite database."""
    return sqlite_url(tmp_path)


class Repository:
    """A git repository for the demo to read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.time = 1_700_000_000
        self.git("init", "--quiet", "--initial-branch=main")

    def git(self, *arguments: str, who: Identity = JANE) -> str:
        """Run git in somebody's name."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        for role in ("AUTHOR", "COMMITTER"):
            environment |= {
                f"GIT_{role}_NAME": who.name,
                f"GIT_{role}_EMAIL": who.email,
                f"GIT_{role}_DATE": f"{self.time} +0100",
            }
        environment |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
        done = subprocess.run(
            [require("git"), "-C", self.folder, *arguments],
            env=environment,
            check=True,
            capture_output=True,
            timeout=SECONDS,
        )
        return done.stdout.decode().strip()

    def commit(self, message: str | bytes, *, who: Identity = JANE, hours: float = 3, **files: bytes) -> None:
        """Commit files (a dict of names and bytes) some hours after the last commit."""
        self.time += int(hours * 3600)
        for name, content in files.items():
            (self.folder / name).write_bytes(content)
        self.git("add", "--all", who=who)
        (self.folder / ".git" / "message").write_bytes(message.encode() if isinstance(message, str) else message)
        self.git(
            "commit",
            "--quiet",
            "--allow-empty",
            "--allow-empty-message",
            "--cleanup=verbatim",
            "--file=.git/message",
            who=who,
        )


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """Create a repository with difficult content: merges, renames, unusual names, binary files, trailers and invalid bytes."""
    made = Repository(tmp_path / "repository")
    made.commit("Begin\n\nSigned-off-by: Jane Doeberman <jane.doeberman@acme-rockets.example>", a=b"1\n2\n")
    made.commit(
        "Thanks @mallory, see https://github.com/mallory/x\n\nCo-authored-by: Mallory Mallory <m@example.org>", b=b"x"
    )
    made.commit("Let zoë and Jane's DOEBERMAN_cache go, ask wei@example.org (mallory/tools#12)", who=ZOE, c=b"\0\1\2")
    (made.folder / "a").rename(made.folder / 'renamed\tfile\nwith"odd commit')
    made.commit("", who=WEI)
    made.git("checkout", "--quiet", "-b", "janedoeberman/topic")
    made.commit("Bump left-pad from 1.2 to 1.3", who=BOT, d=b"1")
    made.commit("topic for JaneDoeberman", who=ZOE, e=b"2")
    made.git("checkout", "--quiet", "main")
    made.commit(b"\xff\xfe not UTF-8 \x1b[31m and control\x07 bytes", who=WEI, f=b"\n" * 5)
    made.time += 60
    made.git(
        "merge", "--quiet", "--no-ff", "-m", "Merge pull request #3 from janedoeberman/topic", "janedoeberman/topic"
    )
    made.commit("commit\n\ncommit\n1\t2\tx", hours=300, commit=b"commit\n")
    made.commit("Empty", who=WEI, hours=-5000)
    return made


def text_of(events: Sequence[dict[str, Any]]) -> str:
    """Return the text of all events."""
    return json.dumps(list(events), ensure_ascii=False)


# ---- git


def test_commits_are_read_as_they_are(repository: Repository) -> None:
    """Counts, parents and authors match git's, whatever the files' names and contents."""
    commits = list(read_commits(repository.folder, limit=100))
    assert len(commits) == int(repository.git("rev-list", "--count", "HEAD")) == 10
    by_message = {commit.message.partition("\n")[0]: commit for commit in commits}
    begin = by_message["Begin"]
    assert (begin.parents, begin.author, begin.files, begin.added, begin.deleted) == (0, JANE, 1, 2, 0)
    binary = by_message["Let zoë and Jane's DOEBERMAN_cache go, ask wei@example.org (mallory/tools#12)"]
    assert (binary.files, binary.added, binary.author) == (1, 0, ZOE)
    rename = by_message[""]
    assert (rename.files, rename.added, rename.deleted, rename.author) == (1, 0, 0, WEI)
    assert by_message["Merge pull request #3 from janedoeberman/topic"].is_merge
    assert by_message["commit"].message.strip() == "commit\n\ncommit\n1\t2\tx"
    assert (by_message["commit"].files, by_message["commit"].added) == (1, 1)
    assert (
        Identity("Mallory Mallory", "m@example.org")
        in by_message["Thanks @mallory, see https://github.com/mallory/x"].names
    )
    assert [commit.sha for commit in read_commits(repository.folder, limit=3)] == [commit.sha for commit in commits[:3]]


def test_a_long_history_is_left_in_the_middle(repository: Repository) -> None:
    """When the reader stops early, git stops, too."""
    commits = read_commits(repository.folder, limit=100)
    assert next(commits).sha
    commits.close()


def test_no_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing repository, commit or git raises one kind of error with the reason."""
    with pytest.raises(GitError, match="not a git repository"):
        history(tmp_path, seed=1)
    Repository(tmp_path / "empty")
    with pytest.raises(GitError, match="HEAD"):
        history(tmp_path / "empty", seed=1)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GitError, match="git cannot be started"):
        history(tmp_path, seed=1)


# ---- the story


def test_a_single_commit_is_a_story(tmp_path: Path) -> None:
    """A single commit is enough for people, an issue's whole life, and times that are not in the future."""
    repository = Repository(tmp_path / "one")
    repository.commit("Begin")
    past = history(repository.folder, seed=1)
    actions = [event["action"] for event in past.events]
    assert actions[0] == "issue.created"
    assert {"commit.pushed", "pull.merged", "issue.updated"} <= set(actions)
    assert (past.issues, actions.count("commit.pushed")) == (1, 1)
    times = [event.get("occurred_at") for event in past.events]
    assert max(filter(None, times)) == f"{datetime.fromtimestamp(repository.time, UTC):%Y-%m-%dT%H:%M:%S}.000000Z"


def test_the_story_of_a_repository(repository: Repository) -> None:
    """Each commit appears once at its own time, in order of time. The merge that ends a branch is left out."""
    past = history(repository.folder, seed=1)
    commits = list(read_commits(repository.folder, limit=100))
    pushed = [event for event in past.events if event["action"] == "commit.pushed"]
    assert len(pushed) == len(commits) - 1
    assert sum(event["details"]["added"] for event in pushed) == sum(commit.added for commit in commits)
    dated = [event["occurred_at"] for event in past.events if "occurred_at" in event]
    assert dated == sorted(dated)
    assert past.events[: len(dated)] == [event for event in past.events if "occurred_at" in event]
    assert Counter(event["action"] for event in past.events)["issue.created"] == past.issues
    assert len(history(repository.folder, seed=1, max_commits=2).events) < len(past.events)


@pytest.mark.parametrize("seed", range(5))
def test_nobody_can_be_recognized(repository: Repository, seed: int) -> None:
    """No event contains a name, address, handle, link, branch or real hash of the repository."""
    past = history(repository.folder, seed=seed)
    text = text_of([*past.events, *islice(generate(past.personas), 500)])
    assert REAL.findall(text) == []
    for commit in read_commits(repository.folder, limit=100):
        assert commit.sha[:7] not in text
    assert text.isprintable()


def test_the_seed_decides(repository: Repository) -> None:
    """The same seed produces the same story, another seed produces other people."""
    one, again, other = (history(repository.folder, seed=seed) for seed in (1, 1, 2))
    assert one.events == again.events
    assert {person.name for person in one.personas.people} != {person.name for person in other.personas.people}
    assert list(islice(generate(one.personas), 300)) == list(islice(generate(again.personas), 300))


@given(seed=st.integers())
@settings(max_examples=20)
def test_the_api_takes_every_event(seed: int) -> None:
    """Generated events have the required keys and no unknown ones, and all kinds of actors occur."""
    personas = Personas(seed)
    events = list(islice(generate(personas, first_issue=7), 400))
    assert [check(schemas.EVENT, event) for event in events] == events
    assert {event["actor"]["type"] for event in events} == {"user", "agent", "system"}
    members = {member.id for member in personas.members}
    for event in events:
        assert event["actor"]["id"] in members
        assert event["action"].partition(".")[2]
        assert event["entity"]["id"]
        if event["actor"]["type"] == "agent":
            assert event["actor"]["on_behalf_of"] in members
            assert event["agent_id"] == event["actor"]["id"]
            assert event["run_id"]


NAMES = st.lists(st.text("abcdefgzéñłжд字ABXYZÉ", min_size=2, max_size=8), min_size=1, max_size=3).map(" ".join)
PEOPLE = st.lists(st.builds(Identity, NAMES, st.emails()), min_size=1, max_size=4)


@given(people=PEOPLE, seed=st.integers(0, 9), data=st.data())
@example(people=[Identity("Small", "changes@x.org")], seed=0, data=None)
def test_no_name_gets_past_the_cast(people: list[Identity], seed: int, data: st.DataObject | None) -> None:
    """Whatever names and addresses a message contains, its title has none of them."""
    personas = Personas(seed, people)
    words = [word for person in people for word in (*person.name.split(), person.name, person.email, "@" + person.name)]
    pieces = st.lists(st.sampled_from([*words, "fix", "the", "for", "'s", "_", "-", ",", "(", "\n", "\x1b", " "]))
    message = "".join(data.draw(pieces)) if data else "Small"
    title = personas.title(message)
    shown = {word.casefold() for word in re.findall(r"[^\W_]+", title)}
    assert title.isprintable()
    assert "@" not in title
    names = {word for person in people for word in person.name.split()}
    if title != "Small changes":  # what replaces a title without a word
        assert not {name for name in names if name.casefold() in shown and name in title}
    members = " ".join(member.name for member in personas.people)
    assert not {name for name in names if re.search(rf"(?<![^\W_]){re.escape(name)}(?![^\W_])", members)}


async def test_a_server_stores_the_whole_story(repository: Repository, api: Api) -> None:
    """History and generated events pass through the API, and nothing in them is redacted as a secret."""
    past = history(repository.folder, seed=3)
    events = [*past.events, *islice(generate(past.personas), 300)]
    async with Client(api.url, api.key) as client:
        stored = await client.append("demo", events[:900])
    assert [event["details"] for event in stored] == [event["details"] for event in events]
    assert all(event["description"] for event in stored)
    assert any(event["changes"] for event in stored)


# ---- the command


async def test_the_demo(repository: Repository, tmp_path: Path) -> None:
    """One command starts the demo with history, live events, a page, and a working curl and tail. SIGTERM removes everything."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    cli = Cli(tmp_path, {"TMPDIR": str(temporary)})
    demo = ("demo", "--from-git", repository.folder, "--port", 0, "--rate", 100)
    async with cli.started(*demo) as process:
        welcome = await read_until(process.stdout, "Ctrl-C")
        (url,) = re.findall(r"(http://\S+)/#sign-in=", welcome)
        (key_file,) = re.findall(r"Authorization: Bearer \$\(cat (\S+)\)", welcome)
        key = Path(key_file).read_text().strip()  # noqa: ASYNC240 - a few bytes
        assert key_file.startswith(str(temporary))
        past = history(repository.folder, seed=1)
        told = len(past.events)
        async with Client(url, key) as client, asyncio.timeout(SECONDS):
            await eventually(partial(has_events, client, told + 20))
            first = [activity.event async for activity in client.history("demo", order="asc")]
            assert [event["action"] for event in first[:told]] == [event["action"] for event in past.events]
        tail = re.search(r"tail (demo -f .*)", welcome)
        assert tail
        arguments = shlex.split(tail[1].replace(f"$(cat {key_file})", key))
        ended = await cli("tail", *arguments, "--count", 3)
        assert [json.loads(line)["workspace_id"] for line in ended.lines] == ["demo"] * 3
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(SECONDS):
            _, err = await process.communicate()
    assert (process.returncode, err) == (0, b"stopping\n")
    assert list(temporary.iterdir()) == []


async def has_events(client: Client, count: int) -> bool:
    """Check whether the demo's workspace has this many events."""
    try:
        return seq_of((await client.workspace("demo"))["position"]) >= count
    except ApiError:
        return False


async def test_the_page_signs_in(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    """The link's code is valid for one session."""
    async with Cli(tmp_path, {}).started("demo", "--port", 0) as process:
        found = re.search(r"(http://127\.0\.0\.1:\d+)/#sign-in=(\S+)", await read_until(process.stdout, "Ctrl-C"))
        assert found
        url, code = found.groups()
        for status in (200, 401):
            async with http.post(f"{url}/v1/session", json={"code": code}) as response:
                assert response.status == status
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(SECONDS):
            assert await process.wait() == 0


async def test_without_a_repository(tmp_path: Path) -> None:
    """A path that is not a repository is an error if it was given explicitly. The created folder is removed."""
    (tmp_path / "tmp").mkdir()
    cli = Cli(tmp_path, {"TMPDIR": str(tmp_path / "tmp")})
    ended = await cli("demo", "--port", 0, "--from-git", tmp_path)
    assert (ended.code, "not a git repository" in ended.err) == (1, True)
    assert list((tmp_path / "tmp").iterdir()) == []


async def test_a_port_in_use(tmp_path: Path) -> None:
    """A port in use is reported, with a solution."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = await Cli(tmp_path, {})("demo", "--port", port)
    assert ended.code == 1
    assert f"port {port} of 127.0.0.1 is in use" in ended.err
    assert "--port 0" in ended.err


async def test_going_on_in_a_folder(repository: Repository, tmp_path: Path) -> None:
    """In the folder of an earlier demo, events continue with new issues. The environment's database is never touched."""
    cli = Cli(tmp_path, {"STREAMER_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing"})
    demo = (
        "demo",
        "--from-git",
        repository.folder,
        "--port",
        0,
        "--data-dir",
        tmp_path / "kept",
        "--speed",
        "1000000x",
    )
    issues: list[set[str]] = []
    for _ in range(2):
        async with cli.started(*demo, "--rate", 200) as process:
            welcome = await read_until(process.stdout, "Ctrl-C")
            found = re.search(r"http://127\.0\.0\.1:\d+", welcome)
            assert found
            async with Client(found[0], (tmp_path / "kept" / "admin.key").read_text().strip()) as client:
                before = 0 if not issues else seq_of((await client.workspace("demo"))["position"])
                await eventually(partial(has_events, client, before + 150))
                events = [
                    activity.event async for activity in client.history("demo", filters={"action": "issue.created"})
                ]
            issues.append({event["entity"]["id"] for event in events})
            assert len(events) == len(issues[-1])
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(SECONDS):
                assert await process.wait() == 0
    assert issues[0] < issues[1]
    assert stat.S_IMODE((tmp_path / "kept" / "streamer.db").stat().st_mode) == 0o600


async def read_until(stream: asyncio.StreamReader | None, text: str) -> str:
    """Return a process's output up to a line with this text."""
    assert stream is not None
    read = ""
    async with asyncio.timeout(SECONDS):
        while text not in read:
            line = await stream.readline()
            assert line, f"ended: {read}"
            read += line.decode()
    return read
