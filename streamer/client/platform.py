"""PraisonAI Platform's activity calls, named as in its documents and its released client, for the API at `/api/v1`."""

from collections import OrderedDict
from collections.abc import Collection
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self, TypedDict, Unpack
from urllib.parse import quote

from streamer.client.backoff import Timing
from streamer.client.calls import Caller
from streamer.client.errors import ApiError

KEPT = 1000
"""Number of loops that started with an empty list for which a client remembers where to continue."""


class ActivityFilters(TypedDict, total=False):
    """Conditions for activities; absent or None: no condition. Lists match any of their values."""

    include_system: bool | None
    """False leaves out activities of actors of type `system`."""
    resource_types: Collection[str] | None
    actions: Collection[str] | None
    """In either spelling: `created` or `issue.created`."""
    start_date: str | None
    """ISO 8601, inclusive; UTC without a zone."""
    end_date: str | None
    actor_id: str | None
    after_id: str | None
    """Only activities after this one, oldest first. None: the newest ones, oldest first, as the start of a loop."""


class PlatformClient:
    """Calls one server with one token. As an asynchronous context manager it shares connections between its calls.

    Responses are dictionaries as the server sends them, with the documented meaning of `action` (`created` for a
    `resource_type`). All calls raise the errors of this package. An unknown filter, or a value of the wrong type, is a
    TypeError.
    """

    def __init__(self, base_url: str, token: str | None = None, *, timing: Timing | None = None) -> None:
        """Prepare the client; nothing is sent yet.

        Args:
            base_url: the server's URL, such as `http://127.0.0.1:8080`.
            token: a JSON Web Token or a key; None sends none.
            timing: delays and time limits, if not the defaults: here 5 seconds to connect and between two pieces of a response.

        Raises:
            ValueError: the URL is not that of a server or contains a password, or the token is not valid in a header.
        """
        self._caller = Caller(base_url, token, timing or Timing(connect=5, silence=5))
        self._empty: OrderedDict[tuple[object, ...], str] = OrderedDict()
        """Where a loop that started with `after_id=None` and got an empty list continues, by its arguments: an empty list has no id."""

    async def __aenter__(self) -> Self:
        self._caller.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._caller.close()

    async def get_workspace_activity(
        self, ws_id: str, limit: int = 50, offset: int = 0, **filters: Unpack[ActivityFilters]
    ) -> list[dict[str, Any]]:
        """Return a workspace's activities, newest first unless `after_id` is given.

        Args:
            ws_id: the workspace.
            limit: maximum number of activities, 1-200.
            offset: how many to skip.
            filters: conditions, see `ActivityFilters`.
        """
        return await self._list(f"/workspaces/{_part(ws_id)}/activity", _query(limit, offset, filters))

    async def get_issue_activity(
        self, issue_id: str, limit: int = 50, offset: int = 0, **filters: Unpack[ActivityFilters]
    ) -> list[dict[str, Any]]:
        """Return an issue's activities, in whichever readable workspace it is."""
        return await self._list(f"/issues/{_part(issue_id)}/activity", _query(limit, offset, filters))

    async def get_my_activity(
        self, limit: int = 50, offset: int = 0, **filters: Unpack[ActivityFilters]
    ) -> list[dict[str, Any]]:
        """Return the activities of the token's user, in all workspaces that it can read."""
        return await self._list("/users/me/activity", _query(limit, offset, filters))

    async def get_activity(self, ws_id: str, activity_id: str) -> dict[str, Any]:
        """Return one activity."""
        answer = await self._caller.call(
            "GET", f"/api/v1/workspaces/{_part(ws_id)}/activity/{_part(activity_id)}", query=[_VIEW]
        )
        if not _is_activity(answer):
            raise self._caller.unexpected()
        activity: dict[str, Any] = answer
        return activity

    async def list_workspace_activity(
        self, workspace_id: str, limit: int | None = None, offset: int | None = None
    ) -> list[dict[str, Any]]:
        """Return a workspace's activities as PraisonAI's released client does: `action` is `issue.created`."""
        return await self._list(f"/workspaces/{_part(workspace_id)}/activity", _page(limit, offset))

    async def list_issue_activity(
        self, workspace_id: str, issue_id: str, limit: int | None = None, offset: int | None = None
    ) -> list[dict[str, Any]]:
        """Return the activities of a workspace's issue, as `list_workspace_activity` does."""
        path = f"/workspaces/{_part(workspace_id)}/issues/{_part(issue_id)}/activity"
        return await self._list(path, _page(limit, offset))

    async def _list(self, path: str, query: list[tuple[str, str]]) -> list[dict[str, Any]]:
        asked = (path, *query)
        position = [""]
        begins = ("after_id", "") in query
        if begins and asked in self._empty:
            query = [(name, self._empty[asked] if name == "after_id" else value) for name, value in query]
        try:
            answer = await self._caller.call(
                "GET",
                f"/api/v1{path}",
                query=query,
                on_headers=lambda headers: position.append(headers.get("X-Position", "")),
            )
        except ApiError as error:
            if error.status == HTTPStatus.GONE:
                self._empty.pop(asked, None)
            raise
        if not (isinstance(answer, list) and all(map(_is_activity, answer))):
            raise self._caller.unexpected()
        if begins:
            self._note(asked, "" if answer else position[-1])
        return answer

    def _note(self, asked: tuple[object, ...], position: str) -> None:
        self._empty.pop(asked, None)
        if position:
            self._empty[asked] = position
        if len(self._empty) > KEPT:
            self._empty.popitem(last=False)


_VIEW = ("view", "platform")


def _part(text: str) -> str:
    return quote(text, safe="")


def _page(limit: int | None, offset: int | None) -> list[tuple[str, str]]:
    return [(name, str(value)) for name, value in (("limit", limit), ("offset", offset)) if value is not None]


def _query(limit: int, offset: int, filters: ActivityFilters) -> list[tuple[str, str]]:
    unknown = filters.keys() - ActivityFilters.__annotations__.keys()
    if unknown:
        raise TypeError(f"there is no filter {', '.join(sorted(unknown))}")
    query = [_VIEW, *_page(limit, offset or None)]
    for name, value in filters.items():
        if isinstance(value, bool):
            query.append((name, "true" if value else "false"))
        elif isinstance(value, str):
            query.append((name, value))
        elif isinstance(value, Collection):
            query.append((name, ",".join(value)))
        elif value is not None:  # leaving it out would remove the condition
            raise TypeError(f"{name}: {type(value).__name__} is not a valid type for a filter")
        elif name == "after_id":  # None: start with the newest, oldest first
            query.append((name, ""))
    return query


def _is_activity(answer: object) -> bool:
    return isinstance(answer, dict) and "action" in answer
