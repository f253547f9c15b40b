"""`streamer demo`: a server with sample activity, until Ctrl-C."""

import asyncio
import contextlib
import errno
import os
import random
import re
import shlex
import shutil
import signal
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import click

import streamer
from streamer.app import Server, redactor, running
from streamer.cli.remote import KEY_FILE, Failure, failure
from streamer.cli.serve import runner
from streamer.cli.values import Number
from streamer.client import ApiError, Client, ClientError, seq_of
from streamer.core.clock import parse_timestamp
from streamer.core.errors import StreamerError
from streamer.demo.generator import generate
from streamer.demo.git import GitError
from streamer.demo.history import Past, history
from streamer.demo.personas import Personas
from streamer.demo.scenario import Event
from streamer.observe.logs import configure
from streamer.observe.output import never_block
from streamer.settings import PREFIX, Settings, SettingsError, load

BATCH = 500
PLAYED = 60
"""Events of the history that arrive one by one; all earlier ones are there at once."""
TICK_SECONDS = 0.02
LONGEST_PAUSE = 3.0
"""Upper limit for pauses such as nights and holidays in the history."""

_LEFT_OUT = {f"{PREFIX}{name}" for name in ("DATABASE_URL", "DATA_DIR")}
_SPEED = re.compile(r"(\d+(?:\.\d+)?)x?")


@dataclass(frozen=True)
class Play:
    """What to play, and how fast."""

    workspace: str
    repository: Path | None
    seed: int
    rate: float
    speed: float | None


def _speed(_context: click.Context, _option: click.Parameter, text: str | None) -> float | None:
    if text is None:
        return None
    match = _SPEED.fullmatch(text)
    if match is None or float(match[1]) == 0:
        raise click.BadParameter("write it as 60x")
    return float(match[1])


@click.command(
    epilog="Ctrl-C stops it and removes its data. Without git, or outside of a checkout, all activity is invented."
)
@click.option(
    "--from-git",
    metavar="PATH",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Use this repository's history [default: this project's own]. Names are replaced.",
)
@click.option(
    "--rate",
    metavar="N",
    type=Number(min=0, min_open=True, max=20_000),
    default=2.0,
    show_default=True,
    help="New events per second.",
)
@click.option(
    "--speed",
    metavar="60x",
    callback=_speed,
    help="Replay the whole history at this speed. [default: most of it is there at once]",
)
@click.option("--seed", metavar="N", type=int, default=1, show_default=True, help="Another seed gives other people.")
@click.option("--workspace", metavar="ID", default="demo", show_default=True, help="The demo's workspace.")
@click.option("--host", metavar="ADDRESS", help="Address to listen on [default: 127.0.0.1].")
@click.option(
    "--port",
    metavar="PORT",
    type=click.IntRange(0, 65535),
    help="Port to listen on; 0 takes a free one [default: 8080].",
)
@click.option(
    "--data-dir",
    metavar="PATH",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the database; it is kept. [default: a new one, removed at the end]",
)
@click.option("--keep", is_flag=True, help="Keep the new folder, too.")
def command(  # noqa: PLR0913 - the options
    *,
    from_git: Path | None,
    rate: float,
    speed: float | None,
    seed: int,
    workspace: str,
    host: str | None,
    port: int | None,
    data_dir: Path | None,
    keep: bool,
) -> None:
    """Run the server with sample activity: people, agents and bots at work.

    \b
    streamer demo
    streamer demo --from-git ~/src/project --speed 3600x
    streamer demo --rate 200 --port 0
    """  # fmt: skip
    with _folder(data_dir, keep=keep) as folder:
        # The demo never writes to the database that the environment names for the real server.
        environment = {name: value for name, value in os.environ.items() if name not in _LEFT_OUT}
        try:
            settings = load({"data_dir": folder, "host": host, "port": port}, environment)
        except SettingsError as error:
            raise click.UsageError(str(error)) from None
        never_block(settings.log_queue_bytes)
        configure(settings.log_format, "warning", redactor(settings).redact_text)
        try:
            with runner() as loop:
                loop.run(_demo(settings, Play(workspace, from_git, seed, rate, speed)))
        except ClientError as error:
            raise failure(error, workspace) from None
        except StreamerError as error:
            raise click.ClickException(error.message) from None
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                hint = "Choose another with --port; --port 0 takes a free one."
                raise Failure(f"port {settings.port} of {settings.host} is in use", hint=hint) from None
            raise Failure(f"cannot start on {settings.host}:{settings.port}: {error.strerror or error}") from None


@contextlib.contextmanager
def _folder(given: Path | None, *, keep: bool) -> Iterator[Path]:
    """Yield the data directory; a directory created here is removed at the end."""
    if given is not None:
        yield given
        return
    folder = Path(tempfile.mkdtemp(prefix="streamer-demo-"))
    try:
        yield folder
    finally:
        if keep:
            click.echo(f"kept: streamer serve --data-dir {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


async def _demo(settings: Settings, play: Play) -> None:
    """Run the server and play until a signal arrives."""
    stop = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    reading = asyncio.create_task(asyncio.to_thread(_past, play.repository, play.seed))
    async with running(settings) as server:
        key = server.admin_key or _kept_key(settings.data_dir)
        async with Client(server.url, key) as client:
            playing = asyncio.create_task(_play(client, play, await reading))
            click.echo(await _welcome(server, settings, play.workspace))
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait({playing, stopping}, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            playing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await playing
        click.echo("stopping", err=True)


async def _welcome(server: Server, settings: Settings, workspace: str) -> str:
    """Print what to open and what to type."""
    key = f"${PREFIX}ADMIN_KEY" if settings.admin_key else f"$(cat {shlex.quote(str(server.key_file))})"
    own = _own_folder()
    program = "streamer" if not (own / "run").is_file() else "./run" if own == Path.cwd() else str(own / "run")
    return (
        f"The workspace {workspace} is live on {server.url}\n\n"
        f"  page    {await server.sign_in_link()}\n          (signs in once, within ten minutes)\n"
        f'  follow  curl -N {server.url}/v1/workspaces/{workspace}/events/stream -H "Authorization: Bearer {key}"\n'
        f'  tail    {program} tail {workspace} -f --url {server.url} --key "{key}"\n\n'
        "Ctrl-C stops it."
    )


async def _play(client: Client, play: Play, past: Past | None) -> None:
    """Append the history, unless the workspace has one, then new events indefinitely."""
    try:
        head = seq_of((await client.workspace(play.workspace))["position"])
    except ApiError as error:
        if error.code != "workspace_not_found":
            raise
        head = 0
    events = past.events if past and head == 0 else []
    at_once = [] if play.speed else events[:-PLAYED]
    for start in range(0, len(at_once), BATCH):
        await client.append(play.workspace, at_once[start : start + BATCH])
    personas = past.personas if past else Personas(play.seed)
    # Unused issue numbers, also when the demo continues in the folder of an earlier one.
    new = generate(personas, first_issue=head + (past.issues if past else 0) + 1)
    await _append_paced(client, play, chain(_history_paced(events[len(at_once) :], play), _living_paced(new, play)))


async def _append_paced(client: Client, play: Play, paced: Iterable[tuple[float, Event]]) -> None:
    """Append each event after its pause; events that are due at nearly the same time are sent together."""
    now = asyncio.get_running_loop().time
    due = now()
    batch: list[Event] = []
    for pause, event in paced:
        due = max(due + pause, now() - LONGEST_PAUSE)
        wait = due - now()
        if batch and (wait > TICK_SECONDS or len(batch) >= BATCH):
            await client.append(play.workspace, batch)
            batch = []
        if wait > TICK_SECONDS:
            await asyncio.sleep(due - now())
        batch.append(event)


def _history_paced(events: Sequence[Event], play: Play) -> Iterator[tuple[float, Event]]:
    """Yield the events with the seconds before each: by their own times with --speed, else at --rate."""
    previous: int | None = None
    for event in events:
        at = parse_timestamp(event["occurred_at"]) if "occurred_at" in event else None
        if play.speed is None or at is None:
            pause = 1 / play.rate
        else:
            pause = 0 if previous is None else (at - previous) / 1_000_000 / play.speed
        previous = at if at is not None else previous
        yield min(max(pause, 0), LONGEST_PAUSE), event


def _living_paced(events: Iterator[Event], play: Play) -> Iterator[tuple[float, Event]]:
    """Yield the events with the seconds before each: irregular, at --rate on average."""
    dice = random.Random(play.seed)  # noqa: S311 - a pace, not a secret
    for event in events:
        yield dice.expovariate(play.rate), event


def _kept_key(folder: Path) -> str:
    """Return the admin key that an earlier start left in the folder."""
    try:
        return (folder / KEY_FILE).read_text("utf-8-sig").strip()
    except (OSError, UnicodeDecodeError):
        hint = f"Set {PREFIX}ADMIN_KEY, or omit --data-dir for a new folder."
        raise Failure(f"the admin key of {folder} is unknown", hint=hint) from None


def _past(repository: Path | None, seed: int) -> Past | None:
    """Return the history to play, or None if there is none and none was asked for."""
    try:
        return history(repository or _own_folder(), seed=seed)
    except GitError as error:
        if repository is None:
            return None
        raise Failure(
            str(error), hint="--from-git needs the folder of a git repository with at least one commit."
        ) from None


def _own_folder() -> Path:
    """Return the checkout, if the package runs from one."""
    return Path(streamer.__file__).resolve().parents[1]
