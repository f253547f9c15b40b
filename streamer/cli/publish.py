"""`streamer publish`: events from options, a file or a pipe into a workspace."""

import codecs
import json
import os
import re
import select
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import IO, Any

import click
import orjson

from streamer.cli.remote import Failure, connection, failure, open_client, run
from streamer.cli.screen import StatusLine, for_people
from streamer.cli.stdin import readable
from streamer.cli.values import workspace_argument
from streamer.client import Client, ClientError, Event

BATCH_EVENTS = 1000
BATCH_BYTES = 4 * 2**20
"""Half of what the server takes at once: no input line is written longer than it was read, but for the commas between."""
READ_BYTES = 2**20
LONGEST_INPUT = 64 * 2**20
"""Bytes of one line, or of one JSON document over several lines: all of it is in memory at once."""

_LONGEST = f"{LONGEST_INPUT // 2**20} MiB"
_ONE_A_LINE = "Write one event a line: there may be any number of lines."

_FIELD = re.compile(r"events\[(\d+)\]\.?(.*)", re.DOTALL)


class BadInput(Failure):
    """The input is not what can be published."""

    exit_code = 2


@dataclass
class Batch:
    """Events of one append, and where in the input each stood."""

    events: list[Any] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    size: int = 0

    def add(self, event: object, place: str, size: int) -> None:
        """Take an event."""
        self.events.append(event)
        self.places.append(place)
        self.size += size

    @property
    def is_full(self) -> bool:
        """It is time to send."""
        return len(self.events) >= BATCH_EVENTS or self.size >= BATCH_BYTES


@click.command(
    epilog="Exit codes: 0 all is stored, 1 failure, 2 wrong usage, 4 not allowed, 5 unreachable, 130 interrupted."
)
@workspace_argument
@click.option(
    "--action", metavar="ACTION", help="What was done, such as issue.created: makes one event of the options."
)
@click.option("--actor-type", metavar="TYPE", help="user, agent, system, or another word.")
@click.option("--actor-id", metavar="ID", help="Who did it. A key that is bound to an actor fills type and id.")
@click.option("--actor-name", metavar="NAME", help="What people call the actor.")
@click.option("--on-behalf-of", metavar="ID", help="The person behind an agent.")
@click.option("--entity-type", metavar="TYPE", help="What it was done to, such as issue.")
@click.option("--entity-id", metavar="ID", help="Its id.")
@click.option("--entity-identifier", metavar="TEXT", help="What people call it, such as PAP-42.")
@click.option("--entity-name", metavar="NAME", help="Its name.")
@click.option("--agent-id", metavar="ID", help="The agent it belongs to.")
@click.option("--run-id", metavar="ID", help="The run it belongs to.")
@click.option("--task-id", metavar="ID", help="The task it belongs to.")
@click.option("--description", metavar="TEXT", help="A sentence; the server makes one.")
@click.option("--details", metavar="JSON", help="Free data: a JSON object.")
@click.option("--occurred-at", metavar="TIME", help="When it happened (RFC 3339), if not now.")
@click.option("--id", "event_id", metavar="ID", help="The event's id: the same one again stores nothing new.")
@click.option("--idempotency-key", metavar="KEY", help="The same call again with this key stores nothing new.")
@click.option("--file", "file", metavar="FILE", type=click.File("rb"), help="Read events from here, not from stdin.")
@click.option("-v", "--verbose", is_flag=True, help="Print the stored events, one JSON object a line.")
@connection
def command(  # noqa: PLR0913 - the options
    *,
    workspace: str,
    idempotency_key: str | None,
    file: IO[bytes] | None,
    verbose: bool,
    url: str,
    key: str | None,
    **options: str | None,
) -> None:
    """Append events to a workspace; the first append makes it.

    \b
    streamer publish my --action issue.created --actor-type user --actor-id ann \\
        --entity-type issue --entity-id 1 --details '{"title": "Fix login"}'
    streamer publish my --file events.ndjson
    producer | streamer publish my
    streamer tail old --since all | jq -c 'del(.seq, .timestamp, .workspace_id)' | streamer publish new

    Input is one JSON object a line, or a JSON object or array. It goes in batches of up to 1,000, each stored whole or not
    at all; a lost connection is repaired without storing anything twice. A line that is not JSON ends the command at once,
    with its number and exit code 2. A line, or a document over several lines, may have up to 64 MiB.
    """
    event = _event(options)
    if event is not None and file is not None:
        raise click.UsageError("give an event by options or by --file, not both")
    if event is None and file is None and sys.stdin.isatty():
        raise click.UsageError("there is nothing to publish: give --action, --file or a pipe (--help has examples)")
    source = file or sys.stdin.buffer
    run(
        _publish(open_client(url, key), workspace, event or source, idempotency_key, verbose=verbose),
        workspace=workspace,
    )


def _event(options: dict[str, str | None]) -> Event | None:
    """Return the event that the options make, None if there is none of them."""
    given = {name: value for name, value in options.items() if value is not None}
    if not given:
        return None
    if "action" not in given:
        raise click.UsageError("--action is missing: it makes an event of the options")
    event: Event = {}
    for name, value in given.items():
        group, _, part = name.partition("_")
        if name == "event_id":
            event["id"] = value
        elif group in {"actor", "entity"}:
            event.setdefault(group, {})[part] = value
        elif name == "on_behalf_of":
            event.setdefault("actor", {})[name] = value
        elif name == "details":
            event["details"] = _json(value, "--details")
        else:
            event[name] = value
    return event


def _json(text: str | bytes, where: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise BadInput(f"{where} is not JSON: {error}") from None


async def _publish(
    client: Client, workspace: str, source: Event | IO[bytes], idempotency_key: str | None, *, verbose: bool
) -> None:
    """Append what the source gives, and report."""
    batches = _one(source) if isinstance(source, dict) else _batches(source.fileno(), in_time=idempotency_key is None)
    status = StatusLine(shown=for_people(sys.stderr))
    started = time.monotonic()
    seqs: list[int] = []
    stored = number = 0
    async with client:
        async for batch in batches:
            number += 1
            # The same input is cut the same way when it is sent again, so that each batch finds its key.
            key = idempotency_key and (idempotency_key if number == 1 else f"{idempotency_key}:{number}")
            try:
                events = await client.append(workspace, batch.events, key)
            except ClientError as error:
                status.clear()
                raise _refused(error, workspace, batch, stored) from None
            stored += len(events)
            seqs = [*seqs[:1], *(event["seq"] for event in events)]
            if verbose:
                sys.stdout.buffer.write(b"".join(orjson.dumps(event) + b"\n" for event in events))
                sys.stdout.buffer.flush()
            status.draw(f"{stored:,} stored - {stored / max(time.monotonic() - started, 0.001):,.0f}/s")
    status.clear()
    if not verbose:
        where = f": seq {min(seqs)}" + (f" to {max(seqs)}" if len(seqs) > 1 else "") if seqs else ""
        click.echo(f"stored {stored:,} event{'s' * (stored != 1)} in {workspace}{where}")


def _refused(error: ClientError, workspace: str, batch: Batch, stored: int) -> Failure:
    """Say which events of the input are wrong, and how many are stored all the same."""

    def in_input(name: str) -> str:
        return _FIELD.sub(lambda match: ", ".join(filter(None, (batch.places[int(match[1])], match[2]))), name)

    failed = failure(error, workspace, name=in_input)
    if stored:
        failed.hint = f"The {stored:,} events before this batch are stored. {failed.hint}".rstrip()
    return failed


async def _one(event: Event) -> AsyncIterator[Batch]:
    batch = Batch()
    batch.add(event, "", 0)
    yield batch


async def _batches(descriptor: int, *, in_time: bool) -> AsyncIterator[Batch]:
    """Cut the input into batches. With `in_time`, one is sent as soon as nothing more is waiting to be read."""
    batch = Batch()
    async for event in _events(descriptor):
        if event is not None:
            batch.add(*event)
        if batch.is_full or (event is None and in_time and batch.events):
            yield batch
            batch = Batch()
    if batch.events:
        yield batch


async def _events(descriptor: int) -> AsyncIterator[tuple[object, str, int] | None]:
    """Yield each event with its place and its size in bytes; None whenever nothing more is waiting to be read."""
    number = count = 0
    lines = _lines(descriptor)
    async for line in lines:
        if line is None:
            yield None
            continue
        number += 1
        if not line.strip():
            continue
        place, text = f"line {number}", line
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            if count or not _may_go_on(text):
                raise BadInput(f"{place} is not JSON: {error}") from None
            # Not one event a line: then it is one document over several lines.
            place, text = "the input", await _document(text, lines)
            value = _json(text, place)
        count += 1
        if isinstance(value, list):
            for index, item in enumerate(value):
                yield item, f"{place}, item {index + 1}", len(text) // len(value)
        else:
            yield value, place, len(text)


async def _document(first: bytes, lines: AsyncIterator[bytes | None]) -> bytes:
    """Return the whole input, which begins as a JSON document does. It is looked at whenever it has doubled, not only at its end."""
    parts, size, looked_at = [first], len(first), len(first)
    async for line in lines:
        if line is None:
            continue
        parts.append(line)
        size += 1 + len(line)
        if size > LONGEST_INPUT:
            raise BadInput(f"the input is one JSON document of more than {_LONGEST}", hint=_ONE_A_LINE)
        if size >= 2 * looked_at:
            looked_at = size
            text = b"\n".join(parts)
            if not _may_go_on(text):
                _json(text, "the input")
    return b"\n".join(parts)


def _may_go_on(text: bytes) -> bool:
    """Tell whether a text is JSON, or all that it lacks is its end."""
    try:
        decoded = text.decode().rstrip()
        json.loads(decoded)
    except UnicodeDecodeError:
        return False
    except json.JSONDecodeError as error:
        # No string, number or name goes over the end of a line, so what lacks only its end is understood up to there.
        return error.pos >= len(decoded)
    except RecursionError:
        return False
    return True


async def _lines(descriptor: int) -> AsyncIterator[bytes | None]:
    """Yield the input's lines; None whenever nothing more is waiting to be read."""
    rest: list[bytes] = []
    number, size = 1, 0
    start = True
    while True:
        await readable(descriptor)
        try:
            data = os.read(descriptor, READ_BYTES)
        except OSError as error:
            raise Failure(f"cannot read the input: {error.strerror}") from None
        if not data:
            break
        if start:
            start, data = False, data.removeprefix(codecs.BOM_UTF8)
        first, *others = data.split(b"\n")
        rest.append(first)
        size += len(first)
        for following in others:
            yield b"".join(rest)
            number += 1
            rest, size = [following], len(following)
        if size > LONGEST_INPUT:
            raise BadInput(f"line {number} is longer than {_LONGEST}", hint=_ONE_A_LINE)
        if not select.select([descriptor], [], [], 0)[0]:
            yield None
    if any(rest):
        yield b"".join(rest)
