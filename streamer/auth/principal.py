"""A principal: a caller with its grants; what each scope and role lets it do, and which events it may see."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from streamer.core.actions import OPEN_AUDIT_ACTIONS
from streamer.core.errors import PermissionDenied, WorkspaceNotFound
from streamer.core.filter import AUDIT_ONLY, EVERYTHING, Condition, Either, Filter, canonical

READ: Final = "workspace:read"
READ_OWN: Final = "workspace:read:own"
WRITE: Final = "workspace:write"
AUDIT: Final = "audit:read"
AUDIT_OWN: Final = "audit:read:own"
WEBHOOKS: Final = "webhooks:write"
ADMIN: Final = "admin"
OWNER: Final = "owner"
"""What the role `owner` has over `admin`, and the instance's admin has everywhere. No scope: nobody can be granted it by itself."""

SCOPES = (READ, READ_OWN, WRITE, AUDIT, AUDIT_OWN, WEBHOOKS, ADMIN)
"""Every scope that a grant can hold. `admin` of a workspace includes the others there; on `*`, everywhere."""

TEMPLATES: Mapping[str, tuple[str, ...]] = {
    "full_access": (READ, WRITE, AUDIT, WEBHOOKS),
    "submit_observe": (READ, WRITE, AUDIT),
    "read_only": (READ, AUDIT),
}
"""Named sets of scopes, after Evershell's. Its scopes for capabilities and tasks have nothing here that they could open."""

ROLES: Mapping[str, frozenset[str]] = {
    "viewer": frozenset({READ}),
    "member": frozenset({READ, WRITE}),
    "admin": frozenset(SCOPES),
    "owner": frozenset({*SCOPES, OWNER}),
}
"""What the members of a workspace may do there, by role, from the least to the most."""

EVERYWHERE = "*"

# What the links of a chain begin with (`auth.watch`); all others are ids of stored credentials.
TICKET = "ticket_"
PERSON = "user:"
UNTIL = "until_"
"""A time, in microseconds since 1970."""
SIGNER = "signer_"
MEMBER = "member_"

_NOT_AUDIT = Condition("category", frozenset({"audit"}), exclude=True)
_OPEN_AUDIT = Condition("action", OPEN_AUDIT_ACTIONS)


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
    """What else has to be valid, as links (see `chain`): the chain of the credential that this one was made from, or a token's."""
    version: str = ""
    """Tells apart what shares an id and ends by itself: the admin's keys, the openings of a ticket."""
    derived_from: str = ""
    """The account of the credential that this one was made from."""
    roles: Mapping[str, str] = field(default_factory=dict)
    """A person's roles in workspaces, which stand for scopes there; in the order of preference (`rank`)."""
    actor_name: str | None = None
    """What people call the actor, if the credential says so."""
    may_claim: frozenset[str] = frozenset()
    """Workspaces (or `*`) where a bound principal may append as others all the same."""

    @property
    def chain(self) -> tuple[str, ...]:
        """What has to be valid for the principal to be so, its own credential first; `auth.watch` knows what each link means."""
        return (f"{self.id}.{self.version}" if self.version else self.id, *self.parents)

    def links(self, workspace: str) -> tuple[str, ...]:
        """Return what, beside the chain, has to stay as it is for what this principal reads in a workspace: its role there."""
        role = self.roles.get(workspace)
        return () if role is None else (member_link(workspace, role, self.own_id),)

    @property
    def credentials(self) -> tuple[str, ...]:
        """The ids of the stored credentials in the chain."""
        others = (TICKET, PERSON, UNTIL, SIGNER, MEMBER)
        return tuple(link.partition(".")[0] for link in self.chain if not link.startswith(others))

    @property
    def is_person(self) -> bool:
        """A token's principal: somebody with roles."""
        return self.id.startswith(PERSON)

    @property
    def account(self) -> str:
        """Whose limits count: those of the credential that was given to somebody, not made from another."""
        return self.derived_from or self.id

    @property
    def bearer(self) -> str:
        """The link of the credential that is held: the one that was shown, or that a ticket was made with."""
        return next(link for link in self.chain if not link.startswith(TICKET))

    @property
    def own_id(self) -> str:
        """What `:own` compares with: the actor's id, for a key without an actor the key's."""
        return self.actor[1] if self.actor else self.account

    @property
    def makers(self) -> frozenset[str]:
        """The names by which a workspace can say that this principal made it."""
        return frozenset({self.account, *([":".join(self.actor)] if self.actor else ())})

    def as_actor(self) -> dict[str, str | None]:
        """Return the actor of what this principal does to access itself: the person or, whatever actor it is bound to, the key."""
        if self.is_person and self.actor:
            return {"type": self.actor[0], "id": self.actor[1], "name": self.name}
        return {"type": "key", "id": self.account, "name": self.name}

    def scopes(self, workspace: str) -> frozenset[str]:
        """Return the scopes this principal has in a workspace."""
        everywhere = self.grants.get(EVERYWHERE, frozenset())
        if ADMIN in everywhere:
            return ROLES["owner"]
        role = ROLES.get(self.roles.get(workspace, ""), frozenset())
        granted = everywhere | self.grants.get(workspace, frozenset()) | role
        return granted | ROLES["admin"] if ADMIN in granted else granted

    def need(self, workspace: str, scope: str) -> None:
        """See that this principal has a scope in a workspace; of reading, what is its own is enough.

        Raises:
            WorkspaceNotFound: no grant there: the answer is the same whether the workspace exists.
            PermissionDenied: a grant there, but not this scope.
        """
        scopes = self.scopes(workspace)
        if not scopes:
            raise WorkspaceNotFound
        if scope not in scopes and f"{scope}:own" not in scopes:
            raise PermissionDenied(
                f"this needs the role {OWNER}" if scope == OWNER else f"this needs the scope {scope}"
            )

    def is_admin(self) -> bool:
        """Tell whether the principal administers the whole instance."""
        return ADMIN in self.grants.get(EVERYWHERE, frozenset())

    def readable(self) -> frozenset[str] | None:
        """Return the workspaces this principal may read; None: all."""
        opening = {READ, READ_OWN, ADMIN}
        readable = frozenset([*(ws for ws, scopes in self.grants.items() if scopes & opening), *self.roles])
        return None if EVERYWHERE in readable else readable

    def rank(self) -> Callable[[str], int]:
        """Return what ranks workspaces for routes that name none: the lowest is preferred.

        First those that the credential names, then the memberships in their order, then what only a grant for `*` reaches. Anybody
        may add a person to a workspace of theirs: that must not change what the person's routes answer.
        """
        ranks = {**{workspace: at for at, workspace in enumerate(self.roles, 1)}, **dict.fromkeys(self.grants, 0)}
        others = len(self.roles) + 1
        return lambda workspace: ranks.get(workspace, others)

    def is_narrowed(self, workspace: str) -> bool:
        """Tell whether it matters in a workspace who made it."""
        scopes = self.scopes(workspace)
        return (READ_OWN in scopes and READ not in scopes) or (AUDIT_OWN in scopes and AUDIT not in scopes)

    def view(self, workspace: str, *, made: bool = False) -> Filter:
        """Return what this principal may see in a workspace that it may read.

        Activity: all of it, with `workspace:read:own` only its own. Audit events: none without `audit:read`, but for those that every
        reader may see; with `audit:read:own` its own.

        Args:
            workspace: which one.
            made: the principal made the workspace: all in it is its own.
        """
        scopes = self.scopes(workspace)
        own = frozenset({self.own_id})
        mine = (Condition("actor_id", own), Condition("on_behalf_of", own))
        reads_all = READ in scopes or made
        audits_all = AUDIT in scopes or (AUDIT_OWN in scopes and made)
        audits_own = mine if AUDIT_OWN in scopes else ()
        if reads_all:
            narrow = () if audits_all else (Either((_NOT_AUDIT, _OPEN_AUDIT, *audits_own)),)
        elif audits_all:
            narrow = (Either((AUDIT_ONLY, *mine)),)
        else:
            narrow = (Either(mine), *(() if audits_own else (Either((_NOT_AUDIT, _OPEN_AUDIT)),)))
        return canonical((*narrow, *self.within.conditions))


def member_link(workspace: str, role: str, user: str) -> str:
    """Return the link of a chain that is a membership."""
    return f"{MEMBER}{workspace}/{role}/{user}"
