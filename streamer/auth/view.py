"""What a principal may see of a workspace; and that reading its audit events is itself told there."""

import contextlib
from collections.abc import Callable
from hashlib import sha256

import orjson

from streamer.auth.principal import AUDIT, AUDIT_OWN, READ, Principal
from streamer.core.auditing import asks_for_audit
from streamer.core.clock import format_timestamp, now_us
from streamer.core.errors import IdConflict, PermissionDenied
from streamer.core.event import Event
from streamer.core.filter import EVERYTHING, Filter
from streamer.core.ids import OWN_EVENT_IDS, is_id
from streamer.core.ports import Append, Log, Writer
from streamer.ingest.intake import Intake
from streamer.store.workspaces import Workspaces

HOUR = 3_600_000_000
REMEMBERED = 10_000
"""Readings that a node knows to be told already; it forgets all when there are more."""


class Views:
    """Every read of events by a principal begins here."""

    def __init__(
        self, workspaces: Workspaces, log: Log, intake: Intake, writer: Writer, clock: Callable[[], int] = now_us
    ) -> None:
        self._workspaces = workspaces
        self._log = log
        self._intake = intake
        self._writer = writer
        self._clock = clock
        self._told: set[tuple[str, str]] = set()
        """Epochs of logs, and ids of the events in them that tell of readings."""

    async def of(self, principal: Principal, workspace: str, selection: Filter) -> Filter:
        """Narrow a filter to what the principal may see. It has the scope to read in the workspace.

        A reading that asks for audit events only is told in the log before anything is read, once for each principal and hour.

        Raises: WorkspaceNotFound, and what an append raises if the reading cannot be told.
        """
        made = principal.is_narrowed(workspace) and await self._made(principal, workspace)
        narrowed = selection.narrowed(principal.view(workspace, made=made))
        if asks_for_audit(narrowed, self._intake.audit_actions):
            await self._tell(principal, workspace)
        return narrowed

    async def event(self, principal: Principal, workspace: str, event_id: str) -> Event:
        """Return one event of a workspace in which the principal may read. Reading an audit event so is recorded as `of` does.

        Raises: EventNotFound, WorkspaceNotFound, and what an append raises if the reading cannot be recorded.
        """
        view = await self.of(principal, workspace, EVERYTHING)
        # What is no id, no event has: the answer is the same as for one that does not exist.
        event = await self._log.event(workspace, event_id if is_id(event_id) else ".", view)
        if orjson.loads(event.body)["category"] == "audit":
            await self._tell(principal, workspace)
        return event

    async def expect_all(self, principal: Principal, workspace: str) -> None:
        """See that a principal that may read in a workspace may know of everybody's activity. Raises WorkspaceNotFound, PermissionDenied."""
        if not await self.is_whole(principal, workspace):
            raise PermissionDenied(f"this needs the scope {READ}")

    async def is_whole(self, principal: Principal, workspace: str) -> bool:
        """Tell whether a principal that may read in a workspace may read all its activity, and so what is known by it.

        Raises: WorkspaceNotFound.
        """
        return READ in principal.scopes(workspace) or await self._made(principal, workspace)

    async def _made(self, principal: Principal, workspace: str) -> bool:
        # Not `created_by`: whoever appends first under an id makes it, too, and would read all that others append there later.
        return (await self._workspaces.get(workspace)).maker in principal.makers

    async def _tell(self, principal: Principal, workspace: str) -> None:
        """Record that a principal reads audit events, if it may read more of them than everybody may."""
        if not principal.scopes(workspace) & {AUDIT, AUDIT_OWN}:
            return
        hour = self._clock() // HOUR * HOUR
        # The log knows an id only once: whichever node tells first.
        event_id = f"{OWN_EVENT_IDS}audit-read:" + sha256(f"{principal.account}\0{hour}".encode()).hexdigest()[:32]
        told = ((await self._log.head(workspace)).epoch, event_id)
        if told in self._told:
            return
        event = {
            "id": event_id,
            "action": "audit.read",
            # Without a name: of one principal that may change, or depend on whether a key or its session reads.
            "actor": {**principal.as_actor(), "name": None},
            "entity": {"type": "workspace", "id": workspace},
            "details": {"hour": format_timestamp(hour)},
        }
        with contextlib.suppress(IdConflict):  # told by another version of the server, in other words
            draft = self._intake.tell(workspace, event)
            await self._writer.append(Append(workspace, [draft], creator=None, account=principal.account))
        if len(self._told) >= REMEMBERED:
            self._told.clear()
        self._told.add(told)
