"""Issues as some dialects address them: by id or identifier, with or without the workspace."""

from collections.abc import Callable, Sequence

from streamer.access.principal import Principal
from streamer.access.visibility import Visibility
from streamer.core.entities import ISSUE, Entity
from streamer.core.errors import Ambiguous, EntityNotFound
from streamer.core.filter import Condition, Either, Filter, canonical
from streamer.core.ids import is_id
from streamer.http.paging import PageRange
from streamer.http.reading import Pages
from streamer.store.log.entities import FOUND_ROWS, Entities

MAX_REFERENCE = 512


class Issues:
    """Finds issues for a caller."""

    def __init__(self, entities: Entities, visibility: Visibility, pages: Pages) -> None:
        self._entities = entities
        self._visibility = visibility
        self._pages = pages

    async def find(self, principal: Principal, reference: str, workspace: str | None = None) -> tuple[str, Entity]:
        """Return the issue that an id or identifier names, with its workspace. Of several workspaces the caller's preferred one is taken.

        Args:
            principal: who asks.
            reference: the issue's id, else its identifier.
            workspace: where it is; None: in one of those that the caller may read.

        Raises: EntityNotFound, Ambiguous.
        """
        found = await self.visible(principal, ISSUE, reference, about_issue, workspace)
        if not found:
            raise EntityNotFound
        if len(found) > 1:
            raise Ambiguous("several of your workspaces have such an issue: name the workspace, or use the issue's id")
        return found[0]

    async def visible(
        self,
        principal: Principal,
        kind: str,
        reference: str,
        about: Callable[[str], Filter],
        workspace: str | None = None,
    ) -> list[tuple[str, Entity]]:
        """Return the entities that a reference names, with their workspaces: all of the caller's most preferred workspaces that have one.

        Several are returned only if the caller prefers none of their workspaces (`Principal.rank`). Callers limited to
        their own events find an entity if they see an event that is `about` its id.
        """
        among = principal.readable() if workspace is None else {workspace}
        if "\0" in reference or len(reference) > MAX_REFERENCE or not all(map(is_id, among or ())):
            return []
        rank = principal.rank()
        # What the credential or a membership names, before what only a grant for `*` reaches.
        left: set[str] | None = {*filter(is_id, (*principal.grants, *principal.roles))} if among is None else {*among}
        while left:
            found = await self._entities.find(kind, reference, left, rank)
            if seen := await self._seen(principal, found, about):
                return seen
            left = {one for one in left if found and rank(one) > rank(found[0][0])}
        if among is not None:
            return []
        found = await self._entities.find(kind, reference, None)
        if len(found) == FOUND_ROWS:
            raise Ambiguous("too many workspaces have it: name the workspace, or use a key for one of them")
        return await self._seen(principal, found, about)

    async def _seen(
        self, principal: Principal, found: Sequence[tuple[str, Entity]], about: Callable[[str], Filter]
    ) -> list[tuple[str, Entity]]:
        return [(where, entity) for where, entity in found if await self._sees(principal, where, about(entity.id))]

    async def _sees(self, principal: Principal, workspace: str, selection: Filter) -> bool:
        if await self._visibility.is_whole(principal, workspace):
            return True
        visible = await self._visibility.authorize(principal, workspace, selection)
        return bool((await self._pages.read_whole(principal, workspace, visible, PageRange("desc"), 1)).events)


def about_issue(issue: str) -> Filter:
    """Return the filter of what is about an issue: done to it, or to something of it, such as a comment."""
    this = frozenset({issue})
    of_it = Condition("issue_id", this)
    # (entity_id AND entity_type) OR issue_id, rewritten as a conjunction, because a filter is a conjunction.
    return canonical(
        (Either((Condition("entity_id", this), of_it)), Either((Condition("entity_type", frozenset({ISSUE})), of_it)))
    )
