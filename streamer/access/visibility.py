"""The events of a workspace that a principal can see; reads of its audit events are themselves recorded there."""

import contextlib
from collections.abc import Callable
from hashlib import sha256

import orjson

from streamer.access.principal import AUDIT, AUDIT_OWN, READ, Principal
from streamer.core.auditing import asks_for_audit
from streamer.core.clock import format_timestamp, now_us
from streamer.core.errors import IdConflict, PermissionDenied
from streamer.core.event import Event
from streamer.core.filter import EVERYTHING, Filter
from streamer.core.ids import OWN_EVENT_IDS, is_id
from streamer.core.ports import Append, Log, Writer
from streamer.ingest.intake import Intake
from streamer.store.records.workspaces import Workspaces

HOUR = 3_600_000_000
REMEMBERED = 10_000
"""Number of recorded reads that a node remembers; it forgets all when there are more."""


class Visibility:
    """The start of every read of events by a principal."""

    def __init__(
        self, workspaces: Workspaces, log: Log, intake: Intake, writer: Writer, clock: Callable[[], int] = now_us
    ) -> None:
        self._workspaces = workspaces
        self._log = log
        self._intake = intake
        self._writer = writer
        self._clock = clock
        self._recorded: set[tuple[str, str]] = set()
        """Epochs of logs, and ids of the events in them that record reads."""

    async def authorize(self, principal: Principal, workspace: str, selection: Filter) -> Filter:
        """Restrict a filter to what the principal can see. It must have the scope to read the workspace.

        A read that asks only for audit events is recorded in the log before anything is read, once for each principal
        and hour.

        Raises: WorkspaceNotFound, and any error of the append if the read cannot be recorded.
        """
        made = principal.is_narrowed(workspace) and await self._made(principal, workspace)
        narrowed = selection.narrowed(principal.visible(workspace, made=made))
        if asks_for_audit(narrowed, self._intake.audit_actions):
            await self._record(principal, workspace)
        return narrowed

    async def event(self, principal: Principal, workspace: str, event_id: str) -> Event:
        """Return one event of a workspace that the principal can read.

        Reading an audit event this way is recorded like in `authorize`.

        Raises: EventNotFound, WorkspaceNotFound, and any error of the append if the read cannot be recorded.
        """
        visible = await self.authorize(principal, workspace, EVERYTHING)
        # No event has an invalid id, so the response is the same as for one that does not exist.
        event = await self._log.event(workspace, event_id if is_id(event_id) else ".", visible)
        if orjson.loads(event.body)["category"] == "audit":
            await self._record(principal, workspace)
        return event

    async def require_all(self, principal: Principal, workspace: str) -> None:
        """Require that a principal that can read a workspace can read all of its activity.

        Raises WorkspaceNotFound, PermissionDenied.
        """
        if not await self.is_whole(principal, workspace):
            raise PermissionDenied(f"this needs the scope {READ}")

    async def is_whole(self, principal: Principal, workspace: str) -> bool:
        """Return whether a principal that can read a workspace can read all of its activity, and so everything derived from it.

        Raises: WorkspaceNotFound.
        """
        return READ in principal.scopes(workspace) or await self._made(principal, workspace)

    async def _made(self, principal: Principal, workspace: str) -> bool:
        # Not `created_by`: the first append under an id creates a workspace, too, but must not give access to what others
        # append later.
        return (await self._workspaces.get(workspace)).maker in principal.makers

    async def _record(self, principal: Principal, workspace: str) -> None:
        """Record that a principal reads audit events, if it can read more of them than every reader."""
        if not principal.scopes(workspace) & {AUDIT, AUDIT_OWN}:
            return
        hour = self._clock() // HOUR * HOUR
        # The log accepts an id only once, whichever node records it first.
        event_id = f"{OWN_EVENT_IDS}audit-read:" + sha256(f"{principal.account}\0{hour}".encode()).hexdigest()[:32]
        record = ((await self._log.head(workspace)).epoch, event_id)
        if record in self._recorded:
            return
        event = {
            "id": event_id,
            "action": "audit.read",
            # Without a name: it can change, and depends on whether a key or its session reads.
            "actor": {**principal.as_actor(), "name": None},
            "entity": {"type": "workspace", "id": workspace},
            "details": {"hour": format_timestamp(hour)},
        }
        with contextlib.suppress(IdConflict):  # recorded by another version of the server, with other content
            draft = self._intake.tell(workspace, event)
            await self._writer.append(Append(workspace, [draft], creator=None, account=principal.account))
        if len(self._recorded) >= REMEMBERED:
            self._recorded.clear()
        self._recorded.add(record)
