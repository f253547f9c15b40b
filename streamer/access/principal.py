"""A principal: a caller with its grants, the permissions of each scope and role, and the events it can see."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from streamer.core.actions import OPEN_AUDIT_ACTIONS
from streamer.core.errors import PermissionDenied, WorkspaceNotFound
from streamer.core.filter import AUDIT_ONLY, EVERYTHING, NOT_AUDIT, Condition, Either, Filter, canonical
from streamer.ingest.intake import Author

READ: Final = "workspace:read"
READ_OWN: Final = "workspace:read:own"
WRITE: Final = "workspace:write"
AUDIT: Final = "audit:read"
AUDIT_OWN: Final = "audit:read:own"
WEBHOOKS: Final = "webhooks:write"
ADMIN: Final = "admin"
OWNER: Final = "owner"
"""The additional rights of the role `owner` over `admin`, which the instance's admin has everywhere.

Not a scope, so it cannot be granted on its own.
"""

SCOPES = (READ, READ_OWN, WRITE, AUDIT, AUDIT_OWN, WEBHOOKS, ADMIN)
"""All scopes that a grant can contain. `admin` of a workspace includes the others there; on `*`, everywhere."""

TEMPLATES: Mapping[str, tuple[str, ...]] = {
    "full_access": (READ, WRITE, AUDIT, WEBHOOKS),
    "submit_observe": (READ, WRITE, AUDIT),
    "read_only": (READ, AUDIT),
}
"""Named sets of scopes, after Evershell's. Its scopes for capabilities and tasks have no counterpart here."""

ROLES: Mapping[str, frozenset[str]] = {
    "viewer": frozenset({READ}),
    "member": frozenset({READ, WRITE}),
    "admin": frozenset(SCOPES),
    "owner": frozenset({*SCOPES, OWNER}),
}
"""Scopes of a workspace's members by role, from the least to the most."""

EVERYWHERE = "*"

# Prefixes of the links of a chain (`access.revocation`); all other links are ids of stored credentials.
TICKET = "ticket_"
PERSON = "user:"
UNTIL = "until_"
"""A time, in microseconds since 1970."""
SIGNER = "signer_"
MEMBER = "member_"

_OPEN_AUDIT = Condition("action", OPEN_AUDIT_ACTIONS)


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller: the credential's id, its grants (workspace id or `*` to scopes), the actor it is bound to."""

    id: str
    name: str
    grants: Mapping[str, frozenset[str]]
    actor: tuple[str, str] | None = None
    expires_at: int | None = None
    within: Filter = EVERYTHING
    """An upper limit for what the principal can see in any workspace: a ticket's filter."""
    parents: tuple[str, ...] = ()
    """Other links that must be valid (see `chain`): the chain of the credential that this one was derived from, or a token's."""
    version: str = ""
    """Distinguishes credentials that share an id and are revoked separately: the admin's keys, the openings of a ticket."""
    derived_from: str = ""
    """The account of the credential that this one was derived from."""
    roles: Mapping[str, str] = field(default_factory=dict)
    """A person's roles in workspaces, which give scopes there; in the order of preference (`rank`)."""
    actor_name: str | None = None
    """The actor's display name, if the credential has one."""
    may_claim: frozenset[str] = frozenset()
    """Workspaces (or `*`) where a bound principal can append as others, too."""

    @property
    def chain(self) -> tuple[str, ...]:
        """Links that must be valid for the principal to be valid, its own credential first; `access.revocation` knows each kind."""
        return (f"{self.id}.{self.version}" if self.version else self.id, *self.parents)

    def links(self, workspace: str) -> tuple[str, ...]:
        """Return the links, in addition to the chain, on which reads of a workspace depend: the role there."""
        role = self.roles.get(workspace)
        return () if role is None else (member_link(workspace, role, self.own_id),)

    @property
    def credentials(self) -> tuple[str, ...]:
        """The ids of the stored credentials in the chain."""
        others = (TICKET, PERSON, UNTIL, SIGNER, MEMBER)
        return tuple(link.partition(".")[0] for link in self.chain if not link.startswith(others))

    @property
    def is_person(self) -> bool:
        """Whether this is the principal of a token: a person with roles."""
        return self.id.startswith(PERSON)

    @property
    def account(self) -> str:
        """The account for limits: that of the original credential, not of one derived from it."""
        return self.derived_from or self.id

    @property
    def bearer(self) -> str:
        """The link of the credential that the caller holds: the credential it sent, or the creator of its ticket."""
        return next(link for link in self.chain if not link.startswith(TICKET))

    @property
    def own_id(self) -> str:
        """The id that `:own` compares with: the actor's id, or the key's for a key without an actor."""
        return self.actor[1] if self.actor else self.account

    @property
    def makers(self) -> frozenset[str]:
        """The names that a workspace can record for this principal as its creator."""
        return frozenset({self.account, *([":".join(self.actor)] if self.actor else ())})

    def as_actor(self) -> dict[str, str | None]:
        """Return the actor of this principal's changes of access: the person or, whatever actor it is bound to, the key."""
        if self.is_person and self.actor:
            return {"type": self.actor[0], "id": self.actor[1], "name": self.name}
        return {"type": "key", "id": self.account, "name": self.name}

    def author(self, workspace: str) -> Author:
        """Return the author of what this principal appends in a workspace."""
        return Author(
            self.id,
            self.actor,
            may_create_workspace=bool({WRITE, ADMIN} & self.grants.get(EVERYWHERE, frozenset())),
            account=self.account,
            name=self.actor_name,
            may_claim=bool({workspace, EVERYWHERE} & self.may_claim),
        )

    def scopes(self, workspace: str) -> frozenset[str]:
        """Return the scopes this principal has in a workspace."""
        everywhere = self.grants.get(EVERYWHERE, frozenset())
        if ADMIN in everywhere:
            return ROLES["owner"]
        role = ROLES.get(self.roles.get(workspace, ""), frozenset())
        granted = everywhere | self.grants.get(workspace, frozenset()) | role
        return granted | ROLES["admin"] if ADMIN in granted else granted

    def need(self, workspace: str, scope: str) -> None:
        """Require a scope in a workspace; for reading, the `:own` scope is enough.

        Raises:
            WorkspaceNotFound: no grant there; the response is the same if the workspace does not exist.
            PermissionDenied: a grant there, but without this scope.
        """
        scopes = self.scopes(workspace)
        if not scopes:
            raise WorkspaceNotFound
        if scope not in scopes and f"{scope}:own" not in scopes:
            raise PermissionDenied(
                f"this needs the role {OWNER}" if scope == OWNER else f"this needs the scope {scope}"
            )

    def is_admin(self) -> bool:
        """Return whether the principal administers the whole instance."""
        return ADMIN in self.grants.get(EVERYWHERE, frozenset())

    def readable(self) -> frozenset[str] | None:
        """Return the workspaces that this principal can read; None: all."""
        opening = {READ, READ_OWN, ADMIN}
        readable = frozenset([*(ws for ws, scopes in self.grants.items() if scopes & opening), *self.roles])
        return None if EVERYWHERE in readable else readable

    def rank(self) -> Callable[[str], int]:
        """Return a function that ranks workspaces for routes without one: the lowest rank is preferred.

        First those in the credential's grants, then the memberships in their order, then those reached only by a grant
        for `*`. Anybody can add a person to their own workspace, and that must not change the responses of the person's
        routes.
        """
        ranks = {**{workspace: at for at, workspace in enumerate(self.roles, 1)}, **dict.fromkeys(self.grants, 0)}
        others = len(self.roles) + 1
        return lambda workspace: ranks.get(workspace, others)

    def is_narrowed(self, workspace: str) -> bool:
        """Return whether the creator of a workspace makes a difference to what the principal can see."""
        scopes = self.scopes(workspace)
        return (READ_OWN in scopes and READ not in scopes) or (AUDIT_OWN in scopes and AUDIT not in scopes)

    def visible(self, workspace: str, *, made: bool = False) -> Filter:
        """Return the filter for what this principal can see in a workspace that it can read.

        Activity: all of it; with `workspace:read:own` only its own. Audit events: none without `audit:read`, except
        those that every reader can see; with `audit:read:own` its own.

        Args:
            workspace: the workspace.
            made: the principal created the workspace, so everything in it is its own.
        """
        scopes = self.scopes(workspace)
        own = frozenset({self.own_id})
        mine = (Condition("actor_id", own), Condition("on_behalf_of", own))
        reads_all = READ in scopes or made
        audits_all = AUDIT in scopes or (AUDIT_OWN in scopes and made)
        audits_own = mine if AUDIT_OWN in scopes else ()
        if reads_all:
            narrow = () if audits_all else (Either((NOT_AUDIT, _OPEN_AUDIT, *audits_own)),)
        elif audits_all:
            narrow = (Either((AUDIT_ONLY, *mine)),)
        else:
            narrow = (Either(mine), *(() if audits_own else (Either((NOT_AUDIT, _OPEN_AUDIT)),)))
        return canonical((*narrow, *self.within.conditions))


def member_link(workspace: str, role: str, user: str) -> str:
    """Return the link for a membership."""
    return f"{MEMBER}{workspace}/{role}/{user}"
