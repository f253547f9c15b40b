"""How the native API answers with lists of things that have ids."""

from collections.abc import Sequence

from aiohttp import web

from streamer.http.paging import link_to
from streamer.http.responses import json_answer


def listed(request: web.Request, body: object, ids: Sequence[str], limit: int) -> web.Response:
    """Answer with a list in order of ids; a header leads on if there may be more."""
    response = json_answer(body)
    if len(ids) == limit:
        response.headers["Link"] = link_to(request, ids[-1], {"after"}, "after")
    return response
