"""The meaning of `--since` and `--until`: positions in a log, or timestamps."""

from collections.abc import Mapping

import click

from streamer.cli.when import moment_of
from streamer.client import Activity, ApiError, Client, seq_of
from streamer.core.clock import parse_timestamp
from streamer.core.position import MAX_SEQ, POSITION


async def bound(option: str, text: str, client: Client, workspace: str, log: Mapping[str, str]) -> str:
    """Return the position or timestamp for WHEN.

    Args:
        option: the option's name, for errors.
        text: the option's value.
        client: looks up events by id.
        workspace: the workspace of the log.
        log: the workspace's fields, with `position` and `earliest`.

    Raises:
        click.UsageError: the value has no meaning in this log.
        ClientError: the server does not answer.
    """
    epoch, _, head = log["position"].rpartition(".")
    if text in {"all", "latest"} and option == "--since":
        return log["earliest"] if text == "all" else log["position"]
    seq = text.removeprefix(f"{epoch}.")
    if seq.isascii() and seq.isdigit() and int(seq) <= MAX_SEQ:
        if int(seq) > int(head):
            raise click.UsageError(f"{option} {text}: the log ends at seq {head}")
        return f"{epoch}.{seq}"
    moment = moment_of(text)
    if moment is not None:
        return moment
    try:
        return f"{epoch}.{(await client.event(workspace, text))['seq']}"
    except ApiError as error:
        if error.code != "event_not_found":
            raise
        raise click.UsageError(f"{option} {text}: not a time, not a seq, and no event has this id") from None


def is_position(text: str) -> bool:
    """Return whether a bound is a position rather than a timestamp."""
    return POSITION.fullmatch(text) is not None


def behind(until: str) -> str:
    """Return the exclusive upper bound for events up to `until`: an event named by it is included, a time is not."""
    return f"{until.rpartition('.')[0]}.{seq_of(until) + 1}" if is_position(until) else until


def is_beyond(activity: Activity, until: str) -> bool:
    """Return whether an event comes after the events up to `until`."""
    if is_position(until):
        return activity.seq > seq_of(until)
    return parse_timestamp(activity.event["timestamp"]) >= parse_timestamp(until)
