"""A principal: a caller with its grants."""

from collections.abc import Mapping
from dataclasses import dataclass

from streamer.core.errors import PermissionDenied, WorkspaceNotFound
from streamer.core.filter import EVERYTHING, Filter

READ = "workspace:read"
WRITE = "workspace:write"
AUDIT = "audit:read"
ADMIN = "admin"

SCOPES = (READ, WRITE, AUDIT, ADMIN)
"""Every scope that a grant can hold. `admin` of a workspace includes the others there; on `*`, everywhere."""

TEMPLATES: Mapping[str, tuple[str, ...]] = {
    "full_access": (READ, WRITE, AUDIT),
    "submit_observe": (READ, WRITE),
    "read_only": (READ, AUDIT),
}
"""Named sets of scopes, after Evershell's."""

EVERYWHERE = "*"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls: the credential's id, its grants (workspace id or `*` to scopes), the actor it is bound to."""

    id: str
    name: str
    grants: Mapping[str, frozenset[str]]
    actor: tuple[str, str] | None = None
    expires_at: int | None = None
    within: Filter = EVERYTHING
    """What the principal may see at most, wherever it may read: a ticket's filter."""
    parents: tuple[str, ...] = ()
    """The chain of the credential that this one was made from: it ends with any of them."""
    version: str = ""
    """Tells apart what shares an id and ends by itself: the admin's keys, the openings of a ticket."""

    @property
    def chain(self) -> tuple[str, ...]:
        """What has to be valid for the principal to be so, its own credential first."""
        return (f"{self.id}.{self.version}" if self.version else self.id, *self.parents)

    @property
    def account(self) -> str:
        """Whose limits count: those of the credential that was given to somebody, not made from another."""
        return self.chain[-1]

    def scopes(self, workspace: str) -> frozenset[str]:
        """Return the scopes this principal has in a workspace."""
        granted = self.grants.get(EVERYWHERE, frozenset()) | self.grants.get(workspace, frozenset())
        return frozenset(SCOPES) if ADMIN in granted else granted

    def need(self, workspace: str, scope: str) -> None:
        """See that this principal has a scope in a workspace.

        Raises:
            WorkspaceNotFound: no grant there: the answer is the same whether the workspace exists.
            PermissionDenied: a grant there, but not this scope.
        """
        scopes = self.scopes(workspace)
        if not scopes:
            raise WorkspaceNotFound
        if scope not in scopes:
            raise PermissionDenied(f"this needs the scope {scope}")

    def is_admin(self) -> bool:
        """Tell whether the principal administers the whole instance."""
        return ADMIN in self.grants.get(EVERYWHERE, frozenset())

    def readable(self) -> frozenset[str] | None:
        """Return the workspaces this principal may read; None: all."""
        readable = frozenset(ws for ws, scopes in self.grants.items() if scopes & {READ, ADMIN})
        return None if EVERYWHERE in readable else readable

    def may_see(self, workspace: str, selection: Filter) -> Filter:
        """Narrow a filter to what this principal may see: audit events only with `audit:read`."""
        selection = selection.narrowed(self.within)
        return selection if AUDIT in self.scopes(workspace) else selection.without_audit()
