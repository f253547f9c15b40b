"""Origins (RFC 6454): which web pages may call this server, other than its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

SETTING = "STREAMER_CORS_ORIGINS"
"""What an operator lists them in; errors name it."""
ANY = "*"

_DEFAULT_PORTS = {"http": 80, "https": 443}
_NO_ORIGINS = frozenset({"about", "blob", "data", "file", "filesystem", "ftp", "javascript", "ws", "wss"})
"""Schemes whose pages have no origin of their own, or the opaque `null`, which any page can have (in a sandboxed frame): never listed."""


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
    if not _is_scheme(parts.scheme) or not host or not host.isascii() or not set(host).isdisjoint("*% \\"):
        raise wrong
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}" + (f":{port}" if port not in {None, _DEFAULT_PORTS.get(parts.scheme)} else "")


def _is_scheme(scheme: str) -> bool:
    """Tell whether origins may have a scheme: the web's, or one of an application's own, such as `capacitor` or `chrome-extension`."""
    return scheme in _DEFAULT_PORTS or (bool(scheme) and scheme not in _NO_ORIGINS)


def same_origin(headers: Mapping[str, str], host: str) -> bool:
    """Tell whether a browser says that the request comes from a page of `host` (Fetch standard, the Origin header)."""
    origin = headers.get("Origin")
    if origin is None:
        return False
    try:
        parts = urlsplit(origin)
    except ValueError:  # not a URL
        return False
    # An application's own scheme has hosts of its own: `capacitor://localhost` is no page of `localhost`.
    return parts.scheme in _DEFAULT_PORTS and parts.netloc == host
