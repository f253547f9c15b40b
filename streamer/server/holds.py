"""The memory that a request holds, and its release when the connection is done with the request."""

from aiohttp import web

from streamer.core.budget import Hold

HOLD: web.RequestKey[Hold | None] = web.RequestKey("hold", Hold | None)  # type: ignore[arg-type]
"""None while the request holds nothing that is counted."""


def release_hold(request: web.BaseRequest) -> None:
    """Hold nothing more for a request: its answer is written, or its client is gone."""
    hold = request.get(HOLD)
    if hold is not None:
        hold.release()
