"""Origins (RFC 6454): other web pages that are allowed to call this server."""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

SETTING = "STREAMER_CORS_ORIGINS"
"""The operator's setting; errors name it."""
ANY = "*"

_DEFAULT_PORTS = {"http": 80, "https": 443}
_NO_ORIGINS = frozenset({"about", "blob", "data", "file", "filesystem", "ftp", "javascript", "ws", "wss"})
"""Schemes whose pages have no origin of their own, or the opaque `null`, which any page can have (in a sandboxed frame): never allowed."""


@dataclass(frozen=True, slots=True)
class Origins:
    """The allowed origins."""

    listed: frozenset[str] = frozenset()

    def allow(self, origin: str | None) -> bool:
        """Return whether pages of an origin are allowed; a request without one does not come from a page of another origin."""
        return origin is not None and not self.listed.isdisjoint({origin, ANY})

    def shown_to(self, origin: str | None) -> str | None:
        """Return the value of `Access-Control-Allow-Origin` for an origin, None if it gets none."""
        return (ANY if ANY in self.listed else origin) if self.allow(origin) else None


def parse_origins(text: str) -> Origins:
    """Parse origins separated by commas, or `*`. Raises ValueError, with the problem and the correct form."""
    listed = [part.strip() for part in text.split(",") if part.strip()]
    if ANY in listed and len(listed) > 1:
        raise ValueError(f"{ANY} allows every origin and cannot be combined with others")
    for origin in listed:
        if origin != ANY and origin != (written := _as_browsers_send(origin)):
            raise ValueError(f"{origin} is not an origin in the form that browsers send: write {written}")
    return Origins(frozenset(listed))


def _as_browsers_send(text: str) -> str:
    """Return the origin of a URL: scheme, host in lower case, a port that is not the scheme's default (RFC 6454, 6.2).

    Raises ValueError.
    """
    wrong = ValueError(f"{text} is not an origin: write one such as https://app.example.com, or {ANY} alone")
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
    """Return whether origins can have a scheme: the web's, or an application's own, such as `capacitor` or `chrome-extension`."""
    return scheme in _DEFAULT_PORTS or (bool(scheme) and scheme not in _NO_ORIGINS)


def same_origin(headers: Mapping[str, str], host: str) -> bool:
    """Return whether a browser reports that the request comes from a page of `host` (Fetch standard, the Origin header)."""
    origin = headers.get("Origin")
    if origin is None:
        return False
    try:
        parts = urlsplit(origin)
    except ValueError:  # not a URL
        return False
    # An application's own scheme has its own hosts: `capacitor://localhost` is not a page of `localhost`.
    return parts.scheme in _DEFAULT_PORTS and parts.netloc == host
