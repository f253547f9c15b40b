"""`streamer publish`: append events from options, a file or a pipe to a workspace."""

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
"""Half of what the server accepts at once: no input line is written longer than it was read, except for the commas between."""
READ_BYTES = 2**20
LONGEST_INPUT = 64 * 2**20
"""Bytes of one line, or of one JSON document over several lines, because all of it is in memory at once."""

_LONGEST = f"{LONGEST_INPUT // 2**20} MiB"
_ONE_A_LINE = "Write one event per line; the number of lines is not limited."

_FIELD = re.compile(r"events\[(\d+)\]\.?(.*)", re.DOTALL)


class BadInput(Failure):
    """The input cannot be published."""

    exit_code = 2


@dataclass
class Batch:
    """The events of one append, and where in the input each of them is."""

    events: list[Any] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    size: int = 0

    def add(self, event: object, place: str, size: int) -> None:
        """Add an event."""
        self.events.append(event)
        self.places.append(place)
        self.size += size

    @property
    def is_full(self) -> bool:
        """Return whether the batch should be sent."""
        return len(self.events) >= BATCH_EVENTS or self.size >= BATCH_BYTES


@click.command(
    epilog="Exit codes: 0 all events stored, 1 failure, 2 invalid usage, 4 not allowed, 5 unreachable, 130 interrupted."
)
@workspace_argument
@click.option(
    "--action", metavar="ACTION", help="What was done, such as issue.created: builds one event from the options."
)
@click.option("--actor-type", metavar="TYPE", help="user, agent, system, or another type.")
@click.option("--actor-id", metavar="ID", help="The actor's id. A key that is bound to an actor fills in type and id.")
@click.option("--actor-name", metavar="NAME", help="The actor's display name.")
@click.option("--on-behalf-of", metavar="ID", help="The person behind an agent.")
@click.option("--entity-type", metavar="TYPE", help="The entity's type, such as issue.")
@click.option("--entity-id", metavar="ID", help="Its id.")
@click.option("--entity-identifier", metavar="TEXT", help="The entity's readable identifier, such as PAP-42.")
@click.option("--entity-name", metavar="NAME", help="Its name.")
@click.option("--agent-id", metavar="ID", help="The agent it belongs to.")
@click.option("--run-id", metavar="ID", help="The run it belongs to.")
@click.option("--task-id", metavar="ID", help="The task it belongs to.")
@click.option("--description", metavar="TEXT", help="A sentence; by default the server writes one.")
@click.option("--details", metavar="JSON", help="Additional data: a JSON object.")
@click.option("--occurred-at", metavar="TIME", help="When it happened (RFC 3339), if not now.")
@click.option("--id", "event_id", metavar="ID", help="The event's id: repeating it stores nothing new.")
@click.option("--idempotency-key", metavar="KEY", help="Repeating the call with this key stores nothing new.")
@click.option(
    "--file", "file", metavar="FILE", type=click.File("rb"), help="Read events from this file instead of stdin."
)
@click.option("-v", "--verbose", is_flag=True, help="Print the stored events, one JSON object per line.")
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
    """Append events to a workspace; the first append creates it.

    \b
    streamer publish my --action issue.created --actor-type user --actor-id ann \\
        --entity-type issue --entity-id 1 --details '{"title": "Fix login"}'
    streamer publish my --file events.ndjson
    producer | streamer publish my
    streamer tail old --since all | jq -c 'del(.seq, .timestamp, .workspace_id)' | streamer publish new

    Input is one JSON object per line, or a JSON object or array. It is sent in batches of up to 1,000, each stored completely or not
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
    """Return the event that the options describe, or None if there are no such options."""
    given = {name: value for name, value in options.items() if value is not None}
    if not given:
        return None
    if "action" not in given:
        raise click.UsageError("--action is missing: the other options need it")
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
    """Append the events of the source, and report."""
    batches = _one(source) if isinstance(source, dict) else _batches(source.fileno(), in_time=idempotency_key is None)
    status = StatusLine(shown=for_people(sys.stderr))
    started = time.monotonic()
    seqs: list[int] = []
    stored = number = 0
    async with client:
        async for batch in batches:
            number += 1
            # The same input is always split in the same way, so that each batch gets its own key again.
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
    """Say which events of the input are invalid, and how many were already stored."""

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
    """Split the input into batches. With `in_time`, a batch is sent as soon as no more input is waiting."""
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
    """Yield each event with its place and its size in bytes; None whenever no more input is waiting."""
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
            # Not one event per line, so it is one document over several lines.
            place, text = "the input", await _document(text, lines)
            value = _json(text, place)
        count += 1
        if isinstance(value, list):
            for index, item in enumerate(value):
                yield item, f"{place}, item {index + 1}", len(text) // len(value)
        else:
            yield value, place, len(text)


async def _document(first: bytes, lines: AsyncIterator[bytes | None]) -> bytes:
    """Return the whole input, which begins like a JSON document.

    It is checked whenever it has doubled, not only at its end.
    """
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
    """Return whether a text is JSON, or a valid beginning of it."""
    try:
        decoded = text.decode().rstrip()
        json.loads(decoded)
    except UnicodeDecodeError:
        return False
    except json.JSONDecodeError as error:
        # No string, number or name crosses a line end, so a valid beginning parses up to its last line end.
        return error.pos >= len(decoded)
    except RecursionError:
        return False
    return True


async def _lines(descriptor: int) -> AsyncIterator[bytes | None]:
    """Yield the input's lines; None whenever no more input is waiting."""
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
