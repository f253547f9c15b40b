"""Origins (RFC 6454): which web pages may call this server, other than its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

SETTING = "STREAMER_CORS_ORIGINS"
"""What an operator lists them in; errors name it."""
ANY = "*"

_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Origins:
    """The origins that are listed."""

    listed: frozenset[str] = frozenset()

    def allow(self, origin: str | None) -> bool:
        """Tell whether pages of an origin may call; without one it is no page of another origin."""
        return origin is not None and not self.listed.isdisjoint({origin, ANY})

    def shown_to(self, origin: str | None) -> str | None:
        """Return what `Access-Control-Allow-Origin` says to an origin, None if nothing."""
        return (ANY if ANY in self.listed else origin) if self.allow(origin) else None


def parse_origins(text: str) -> Origins:
    """Read origins parted by commas, or `*`. Raises ValueError, which says what is wrong and how to write it."""
    listed = [part.strip() for part in text.split(",") if part.strip()]
    if ANY in listed and len(listed) > 1:
        raise ValueError(f"{ANY} allows every origin: nothing can stand beside it")
    for origin in listed:
        if origin != ANY and origin != (written := _as_browsers_send(origin)):
            raise ValueError(f"{origin} is no origin as browsers send it: write {written}")
    return Origins(frozenset(listed))


def _as_browsers_send(text: str) -> str:
    """Return the origin of a URL: scheme, host in lower case, a port that is not the scheme's (RFC 6454, 6.2). Raises ValueError."""
    wrong = ValueError(f"{text} is no origin: an origin is such as https://app.example.com, or {ANY} alone")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise wrong from None
    if parts.scheme not in _DEFAULT_PORTS or not host or not host.isascii() or not set(host).isdisjoint("*% \\"):
        raise wrong
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}" + (f":{port}" if port not in {None, _DEFAULT_PORTS[parts.scheme]} else "")


def same_origin(headers: Mapping[str, str], host: str) -> bool:
    """Tell whether a browser says that the request comes from a page of `host` (Fetch standard, the Origin header)."""
    origin = headers.get("Origin")
    if origin is None:
        return False
    try:
        return urlsplit(origin).netloc == host
    except ValueError:  # not a URL
        return False
