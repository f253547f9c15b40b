"""Changes of access. Each is stored together with its audit event, and refused unless the caller is still authorized.

A workspace's own changes are recorded in its log; those of the instance (workspaces created and deleted, the admin key
replaced) in the log of the workspace `system`.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from streamer.access.keys import ADMIN_ID, Keyring, admin_credential, hash_secret
from streamer.access.principal import OWNER, Principal, member_link
from streamer.core.clock import format_timestamp, now_us
from streamer.core.errors import LastOwner, PermissionDenied, WorkspaceNotFound
from streamer.core.event import Draft
from streamer.core.ids import SYSTEM_WORKSPACE
from streamer.core.ports import AuditDraft, Change, T, Writer
from streamer.fanout.dependencies import Dependencies
from streamer.feed.channels import Channels
from streamer.feed.reasons import Reason
from streamer.ingest.intake import Intake
from streamer.store.records.credentials import Credential, Credentials, guarded
from streamer.store.records.members import Member, Members, Removed
from streamer.store.records.workspaces import Workspace, Workspaces

_ITSELF: Mapping[str, str | None] = {"type": "system", "id": "streamer", "name": None}
"""The actor of the server's own actions at its start."""


class Administration:
    """Makes the changes, and closes affected connections on this node at once; other nodes notice within a second (`access.revocation`)."""

    def __init__(  # noqa: PLR0913, PLR0917 - the composition root names each of them
        self,
        writer: Writer,
        intake: Intake,
        credentials: Credentials,
        members: Members,
        workspaces: Workspaces,
        keyring: Keyring,
        dependencies: Dependencies,
        channels: Channels,
        *,
        max_keys: int,
        max_members: int,
        clock: Callable[[], int] = now_us,
    ) -> None:
        self._writer = writer
        self._intake = intake
        self._credentials = credentials
        self._members = members
        self._workspaces = workspaces
        self._keyring = keyring
        self._dependencies = dependencies
        self._channels = channels
        self._max_keys = max_keys
        self._max_members = max_members
        self._clock = clock

    # ---- keys

    async def create_key(  # noqa: PLR0913 - what a key is made of
        self,
        principal: Principal,
        workspace: str,
        *,
        name: str,
        scopes: Sequence[str],
        actor: tuple[str, str] | None = None,
        expires_at: int | None = None,
    ) -> tuple[Credential, str]:
        """Create a key for one workspace.

        Return its record and the secret, which is not stored. Raises WorkspaceNotFound, RateLimited.
        """
        secret = "sk_" + secrets.token_urlsafe(32)
        credential = Credential(
            id="key_" + secrets.token_hex(8),
            kind="key",
            secret_hash=hash_secret(secret),
            workspace=workspace,
            name=name,
            grants={workspace: sorted(set(scopes))},
            actor=actor,
            parent=None,
            created_at=self._clock(),
            created_by=principal.id,
            expires_at=expires_at,
        )
        draft = self._key_event(principal.as_actor(), workspace, "key.created", credential)
        change = self._credentials.create(credential, workspace, draft, most=self._max_keys)
        await self._change(change, principal, workspace)
        return credential, secret

    async def revoke_key(self, principal: Principal, workspace: str, key_id: str) -> None:
        """Revoke a key and everything derived from it. Raises NotFound."""
        actor = principal.as_actor()
        change = self._credentials.revoke(
            key_id, workspace, lambda key: self._key_event(actor, workspace, "key.revoked", key)
        )
        await self._change(change, principal, workspace)
        self._keyring.forget()
        self._dependencies.end_links([key_id], Reason.CREDENTIAL_REVOKED)

    async def set_admin_key(self, chosen: str | None) -> str | None:
        """Ensure that an admin key exists.

        Args:
            chosen: the operator's own, which replaces any other; None: create one if there is none.

        Returns:
            the new key, to be shown once; None if there was one or the operator chose it.
        """
        known = await self._credentials.get(ADMIN_ID)
        if chosen is None and known is not None:
            return None
        secret = chosen or "sk_" + secrets.token_urlsafe(32)
        if known is None:
            if not await self._credentials.add_first(admin_credential(secret, self._clock())):
                return await self.set_admin_key(chosen)  # another node was faster
        elif known.secret_hash != hash_secret(secret):
            credential = admin_credential(secret, self._clock())
            draft = self._key_event(_ITSELF, SYSTEM_WORKSPACE, "key.created", credential)
            # Sessions created with the old key are deleted with it.
            await self._writer.change(self._credentials.create(credential, SYSTEM_WORKSPACE, draft))
        return secret if chosen is None else None

    def _key_event(self, actor: Mapping[str, Any], workspace: str, action: str, key: Credential) -> Draft:
        details = {
            "scopes": sorted({scope for scopes in key.grants.values() for scope in scopes}),
            "actor": {"type": key.actor[0], "id": key.actor[1]} if key.actor else None,
            "expires_at": format_timestamp(key.expires_at) if key.expires_at is not None else None,
        }
        entity = {"type": "key", "id": key.id, "name": key.name}
        return self._intake.tell(workspace, {"action": action, "actor": actor, "entity": entity, "details": details})

    # ---- members

    async def put_member(self, principal: Principal, workspace: str, user: str, role: str) -> tuple[Member, bool]:
        """Give a person a role. Return the member, and whether they are new.

        Raises:
            PermissionDenied: only an owner can add and change owners.
            LastOwner: the workspace would have no owner.
            RateLimited: the workspace has reached its limit of members.
        """
        actor = principal.as_actor()

        def tell(before: Member | None, other_owners: int) -> Draft | None:
            was = before.role if before else None
            if was == role:
                return None
            if OWNER in {was, role}:
                self._check_owner(principal, workspace, leaves=was == OWNER, other_owners=other_owners)
            changes = {"role": {"from": was, "to": role}}
            event = {"action": "member.role_changed", "changes": changes} if was else {"action": "member.added"}
            entity = {"type": "member", "id": user}
            return self._intake.tell(workspace, {**event, "actor": actor, "entity": entity, "details": {"role": role}})

        wanted = Member(user, role, self._clock(), principal.id)
        change = self._members.put(workspace, wanted, tell, most=self._max_members)
        after, before = await self._change(change, principal, workspace)
        if before is not None and before.role != after.role:
            self._end_membership(workspace, before, Reason.ACCESS_CHANGED)
        self._keyring.forget()
        self._dependencies.renew_link(member_link(workspace, after.role, after.user))
        return after, before is None

    async def remove_member(self, principal: Principal, workspace: str, user: str) -> None:
        """Remove a person from a workspace, and revoke the keys that act as them there.

        Raises:
            NotFound: they are not a member.
            PermissionDenied: only an owner can remove owners.
            LastOwner: the workspace would have no owner.
        """
        actor = principal.as_actor()

        def tell(removed: Removed, other_owners: int) -> list[Draft]:
            if removed.member.role == OWNER:
                self._check_owner(principal, workspace, leaves=True, other_owners=other_owners)
            event = {
                "action": "member.removed",
                "actor": actor,
                "entity": {"type": "member", "id": user},
                "details": {"role": removed.member.role},
            }
            keys = [self._key_event(actor, workspace, "key.revoked", key) for key in removed.keys]
            return [self._intake.tell(workspace, event), *keys]

        removed = await self._change(self._members.remove(workspace, user, tell), principal, workspace)
        self._keyring.forget()
        self._end_membership(workspace, removed.member, Reason.ACCESS_REVOKED)
        self._dependencies.end_links([key.id for key in removed.keys], Reason.CREDENTIAL_REVOKED)

    def _check_owner(self, principal: Principal, workspace: str, *, leaves: bool, other_owners: int) -> None:
        if OWNER not in principal.scopes(workspace):
            raise PermissionDenied("only an owner can add, change and remove owners")
        if leaves and not other_owners and not principal.is_admin():
            raise LastOwner("the workspace would have no owner: add another one first")

    def _end_membership(self, workspace: str, member: Member, reason: Reason) -> None:
        self._dependencies.end_links([member_link(workspace, member.role, member.user)], reason)

    # ---- workspaces

    async def put_workspace(
        self, principal: Principal, workspace: str, values: Mapping[str, Any]
    ) -> tuple[Workspace, bool]:
        """Create a workspace, or change the given fields. Return it, and whether it was created.

        Raises:
            PermissionDenied: only an owner can move a workspace to another organisation.
        """
        actor = principal.as_actor()

        def tell(before: Workspace | None, after: Workspace) -> AuditDraft | None:
            entity = {"type": "workspace", "id": workspace, "name": after.name}
            if before is None:
                if not principal.is_admin():
                    raise WorkspaceNotFound  # a grant for an id does not include the right to create the workspace
                details = {"org_id": after.org_id, "settings": after.settings}
                event = {"action": "workspace.created", "actor": actor, "entity": entity, "details": details}
                return SYSTEM_WORKSPACE, self._intake.tell(SYSTEM_WORKSPACE, event)
            if before.org_id != after.org_id and OWNER not in principal.scopes(workspace):
                raise PermissionDenied("only an owner can move a workspace to another organisation")
            changes = _differences(before, after)
            if not changes:
                return None
            event = {
                "action": "workspace.settings_updated",
                "actor": actor,
                "entity": entity,
                "changes": changes,
            }
            return workspace, self._intake.tell(workspace, event)

        change = self._workspaces.put(workspace, values, creator=principal.id, tell=tell)
        return await self._change(change, principal, workspace)

    async def delete_workspace(self, principal: Principal, workspace: str) -> None:
        """Delete a workspace with its members and keys, and close its streams. Raises WorkspaceNotFound."""
        actor = principal.as_actor()

        def tell(before: Workspace) -> AuditDraft:
            entity = {"type": "workspace", "id": workspace, "name": before.name}
            event = {
                "action": "workspace.deleted",
                "actor": actor,
                "entity": entity,
                "details": {"org_id": before.org_id, "head": before.log.head},
            }
            return SYSTEM_WORKSPACE, self._intake.tell(SYSTEM_WORKSPACE, event)

        deleted = await self._change(self._workspaces.delete(workspace, tell), principal, workspace)
        self._keyring.forget()
        self._channels.close_workspace(workspace, Reason.WORKSPACE_DELETED)
        # Another caller can create a workspace with the same id at once; nothing of the old one must be valid for it.
        self._dependencies.end_links(deleted.keys, Reason.CREDENTIAL_REVOKED)
        roles = [member_link(workspace, role, user) for user, role in deleted.members]
        self._dependencies.end_links(roles, Reason.WORKSPACE_DELETED)

    async def _change(self, change: Change[T], principal: Principal, workspace: str) -> T:
        """Store a change in the name of a principal, if it is still authorized then."""
        role = principal.roles.get(workspace)
        held = None if role is None else (workspace, principal.own_id, role)
        change = replace(change, account=principal.account)
        return await self._writer.change(guarded(change, principal.credentials, held))


def _differences(before: Workspace, after: Workspace) -> dict[str, dict[str, Any]]:
    """Return the changed fields of a workspace; each of its settings separately."""

    def values(workspace: Workspace) -> dict[str, Any]:
        settings = {f"settings.{name}": value for name, value in workspace.settings.items()}
        return {"name": workspace.name, "org_id": workspace.org_id, **settings}

    was, now = values(before), values(after)
    return {name: {"from": was.get(name), "to": now.get(name)} for name in was | now if was.get(name) != now.get(name)}
