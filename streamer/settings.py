"""All settings: environment variables `STREAMER_…`, a TOML file, or flags of `streamer serve`.

Flags take precedence over the environment, and the environment over the file. A setting that is unknown or invalid
stops the start with its name.
"""

import os
import re
import socket
import tomllib
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from streamer.access.origins import Origins, parse_origins
from streamer.core.actions import check_action
from streamer.ingest.names import words_of
from streamer.ingest.texts import check_shape

PREFIX = "STREAMER_"
CLIENT_VARIABLES = ("URL", "KEY", "MAX_WAIT", "CONFIG")
"""Variables with our prefix that are not settings of the server: URL, key and longest wait of client commands, and the TOML file's path."""
WORKER_VARIABLE = "WORKER"
"""What a worker is told by the process that starts it; nobody else sets it."""

DIALECT_NAMES = ("praisonai", "paperclip", "evershell")

_REDIS_URL = re.compile(r"(rediss?(\+sentinel)?|unix)://")
_URL = re.compile(r"[A-Za-z0-9:/?#\[\]@!$&'()*+,;=._~%-]+")

KiB, MiB = 2**10, 2**20

_BEARER = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""The characters allowed in a key (RFC 6750, section 2.1)."""


class SettingsError(Exception):
    """A setting is unknown or invalid; the message names it."""


def _listed(separator: str, check: Callable[[str], str]) -> Any:
    """Return the type of a list setting.

    In a variable its items are separated by `separator`; `check` validates each item.
    """

    def split(value: object) -> object:
        return [item.strip() for item in value.split(separator) if item.strip()] if isinstance(value, str) else value

    return Annotated[tuple[Annotated[str, AfterValidator(check)], ...], BeforeValidator(split)]


def bound(default: Any, description: str, *, at_limit: str, **constraints: Any) -> Any:
    """Return the field of a setting that is a limit.

    Args:
        default: its value if it is not set.
        description: what it limits.
        at_limit: what happens at the limit, and what an operator can do; docs/limits.md shows it.
        constraints: as for `pydantic.Field`.
    """
    return Field(default, description=description, json_schema_extra={"at_limit": at_limit}, **constraints)


class Settings(BaseModel):
    """The server's settings. Sizes are bytes, times are seconds unless the name says otherwise."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field(
        "127.0.0.1",
        min_length=1,
        description="Address or host name to listen on; a name means all its addresses. `0.0.0.0`: all IPv4; `::`: IPv4 and IPv6.",
    )
    port: Annotated[int, Field(ge=0, le=65535)] = Field(8080, description="Port to listen on; 0 takes a free one.")
    public_url: str | None = Field(
        None,
        description="URL under which clients reach the server if a proxy serves it under a path, such as `https://example.com/streamer`.",
    )
    data_dir: Path = Field(Path("data"), description="Folder of the SQLite database and the admin key's file.")
    database_url: SecretStr | None = Field(
        None,
        description="`sqlite:///FILE` or `postgresql://USER:PASSWORD@HOST/NAME`; none: SQLite in the data directory.",
    )
    database_failover: Literal["asynchronous", "lossless"] = Field(
        "asynchronous",
        description="Whether a failover of PostgreSQL can lose its last commits; `lossless`: logs then keep their epochs.",
    )
    redis_url: SecretStr | None = Field(
        None,
        description="URL of the Redis that connects several nodes on one PostgreSQL: `redis://`, `rediss://`, `redis+sentinel://` or `unix://`.",
    )
    bus: Literal["auto", "redis", "postgres", "none"] = Field(
        "auto",
        validate_default=True,
        description="What announces commits to other nodes; `auto`: Redis if its URL is set, else PostgreSQL if it is the database.",
    )
    workers: int = Field(
        1,
        ge=1,
        le=64,
        validate_default=True,
        description="Server processes on this machine that share the port; more than one needs PostgreSQL.",
    )
    node_name: str = Field(
        default_factory=socket.gethostname,
        min_length=1,
        max_length=64,
        description="Name of this node in lists of nodes.",
    )
    admin_key: SecretStr | None = Field(
        None,
        description="The admin key, 20 to 256 characters that are allowed in a Bearer header; none: created at the first start.",
    )
    log_format: Literal["auto", "console", "json"] = Field(
        "auto", description="`auto`: console on a terminal, else JSON."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The least severe level to log."
    )
    log_queue_bytes: int = bound(
        1 * MiB,
        "Bytes of log lines that are queued while they cannot be written: the disk is full, or a pipe's reader has stopped.",
        at_limit="Further lines are dropped and counted in `streamer_log_lines_dropped_total`; requests are not blocked. When writing "
        "works again, a line `log_lines_dropped` has the number of missing lines. Free disk space, or fix the pipe's reader.",
        ge=16 * KiB,
        le=1024 * MiB,
    )
    metrics_public: bool = Field(False, description="Serve `/metrics` without a key.")
    audit_actions: _listed(",", check_action) = Field(  # type: ignore[valid-type]
        (), description="Further actions of category `audit`, separated by commas."
    )
    cors_origins: str = Field(
        "",
        description="Origins whose pages can call this server, separated by commas, or `*`; none: only its own page.",
    )

    dialects: _listed(",", str) = Field(  # type: ignore[valid-type]
        DIALECT_NAMES, description="The foreign APIs to serve, separated by commas, or `none`."
    )
    keys_in_urls: bool = Field(
        True, description="Accept keys in the URLs of a dialect's streams, as its clients send them; never elsewhere."
    )
    praisonai_zone: bool = Field(False, description="Write PraisonAI's `created_at` with a trailing `Z`.")
    evershell_stream_seconds: int = bound(
        300,
        ge=1,
        le=86_400,
        description="Evershell's streams end after this time, and their clients reconnect.",
        at_limit="The stream ends at most one heartbeat later. Evershell's clients reconnect by themselves and resume.",
    )

    max_event_bytes: int = bound(
        256 * KiB,
        ge=1 * KiB,
        le=16 * MiB,
        description="Largest event, as stored.",
        at_limit="The append is refused with 413 `payload_too_large`, which names the event. Store large data "
        "elsewhere and put a link into the event, or raise the limit.",
    )
    max_details_depth: int = bound(
        32,
        ge=1,
        le=200,
        description="Levels of nesting in `details` and `changes`.",
        at_limit="The append is refused with 400 `validation_error`, which names the field. Flatten the data, or raise "
        "the limit.",
    )
    max_batch_events: int = bound(
        1000,
        ge=1,
        le=10_000,
        description="Events in one batch.",
        at_limit="The batch is refused with 400 `validation_error`. Send it in parts; each part is stored completely or "
        "not at all.",
    )
    max_body_bytes: int = bound(
        8 * MiB,
        ge=1 * KiB,
        le=256 * MiB,
        description="Largest request body, including batches.",
        at_limit="The request is refused with 413 `payload_too_large` and the connection is closed. Send smaller "
        "batches, or raise the limit.",
    )
    max_body_values: int = bound(
        100_000,
        "JSON values in one request body, in one line of NDJSON and in one WebSocket message.",
        at_limit="The request is refused with 413 `payload_too_large`. Send the events as NDJSON or in smaller batches."
        " Parsing holds the event loop for about 6 ms per 100,000 values.",
        ge=1000,
        le=10_000_000,
    )
    max_page_events: int = bound(
        1000,
        ge=1,
        le=10_000,
        description="Largest `limit` of a page of history.",
        at_limit="A larger `limit` is refused with 400 `validation_error`. Follow the `cursor`.",
    )
    max_page_bytes: int = bound(
        8 * MiB,
        ge=1 * KiB,
        le=256 * MiB,
        description="Size of a page of history in bytes; one event always fits.",
        at_limit="The page ends early and has a `cursor`. Follow it.",
    )
    read_seconds: float = bound(
        5,
        "Time limit for one read of the database; a page of history that takes longer ends early, with a cursor.",
        at_limit="The page has the events found so far, the position it reached (`scanned_to`) and a cursor. A dialect without cursors,"
        " and any other read, answers 503 `read_timeout`. Filter by an indexed field or a time range, or raise the limit.",
        ge=0.1,
        le=60,
    )
    max_scans_per_key: int = bound(
        2,
        "Scans (reads of history that no index covers: `q`, several filters together) that one key can run at once on a node.",
        at_limit="A further scan waits up to 2 seconds, then gets 429 `rate_limited`. Run them one after the other, or raise the limit.",
        ge=1,
        le=100,
    )
    body_timeout: float = bound(
        30,
        gt=0,
        le=3600,
        description="Seconds within which a request's body must arrive.",
        at_limit="The request gets 408 `request_timeout` and the connection is closed; an unfinished WebSocket "
        "message closes the socket. Raise the limit for slow uplinks.",
    )
    memory_bytes: int = bound(
        256 * MiB,
        "Memory for request bodies, unread responses and unfinished WebSocket messages on this node. Unread events of streams have half as much of their own.",
        at_limit="New work gets 503 `overloaded`; a WebSocket is closed with 4007. Streams wait: they get further events from the log when memory is"
        " free again, and miss nothing. One account can use half of it, and half of what streams have; all callers without"
        " a credential together a sixteenth. The last eighth is reserved for accounts that hold at most a 64th. Bodies up to 64 KiB are not counted and are"
        " refused only if their account holds more than that. Raise the limit, or lower `max_body_bytes` and `max_page_bytes`; it must be at least four times each.",
        ge=4 * MiB,
        validate_default=True,
    )
    append_queue_events: int = bound(
        20_000,
        ge=1,
        description="Events that can be queued before appends get 503.",
        at_limit="Further appends get 503 `overloaded` with `Retry-After`; nothing of them is stored. One account can fill half of the "
        "queue; the last eighth is reserved for accounts with at most a 64th in it. Accounts are served in turn. Watch "
        "`streamer_commit_seconds`: the disk is too slow for the load.",
    )
    append_queue_bytes: int = bound(
        64 * MiB,
        ge=1 * KiB,
        description="Bytes of events that can be queued.",
        at_limit="Further appends get 503 `overloaded` with `Retry-After`; nothing of them is stored. Accounts share it like "
        "`STREAMER_APPEND_QUEUE_EVENTS`. A separate limit of the same size applies to large events that wait for redaction. Watch "
        "`streamer_commit_seconds`, as above.",
    )
    append_rate: float = bound(
        0,
        ge=0,
        le=1e9,
        description="Events per second that one key can append, on each node; 0: no limit.",
        at_limit="The append gets 429 `rate_limited` with `Retry-After`; nothing of it is stored. `RateLimit` "
        "headers show what is left.",
    )
    append_burst: int = bound(
        1000,
        ge=1,
        le=10**9,
        description="Events that one key can append at once.",
        at_limit="As for `STREAMER_APPEND_RATE`. A batch larger than the burst is accepted when the bucket is full.",
    )
    idempotency_hours: int = bound(
        24,
        ge=1,
        le=720,
        description="How long an `Idempotency-Key` is remembered.",
        at_limit="The key is forgotten: the same request with it is stored again. Set the `id` of events "
        "if a retry can come later.",
    )

    redact_names: _listed(",", words_of) = Field(  # type: ignore[valid-type]
        (), description="Last words of further key names whose values are secret, separated by commas."
    )
    redact_shapes: _listed("\n", check_shape) = Field(  # type: ignore[valid-type]
        (), description="Regular expressions of further tokens, one per line; a word that matches one is replaced."
    )
    keep_names: _listed(",", words_of) = Field(  # type: ignore[valid-type]
        (), description="Last words of key names whose values are not secret, separated by commas."
    )

    max_streams_per_key: int = bound(
        20_000,
        ge=1,
        description="Open streams of one key.",
        at_limit="A further stream gets 429 `rate_limited`. Use one connection for many workspaces (`/v1/ws`), or "
        "several keys.",
    )
    max_streams: int = bound(
        100_000,
        ge=1,
        description="Open streams on this node.",
        at_limit="A further stream gets 503 `overloaded`. Add nodes, or raise the limit and that of open files.",
    )
    max_openings: int = bound(
        1000,
        "Streams that are being opened at the same time on this node, as when thousands of readers reconnect after another node's death.",
        at_limit="A further stream gets 503 `overloaded` with a random `Retry-After` of 1 to 5 seconds. Clients should add a delay of "
        "their own that grows with each attempt. Streams that are open are not affected.",
        ge=1,
    )
    max_keys_per_workspace: int = bound(
        10_000,
        "Keys of one workspace, including expired ones.",
        at_limit="A further key gets 429 `rate_limited`. Revoke unused keys.",
        ge=1,
    )
    max_members_per_workspace: int = bound(
        100_000,
        "Members of one workspace.",
        at_limit="A further member gets 429 `rate_limited`; roles can still be changed. Remove members, or raise the limit.",
        ge=1,
    )
    max_tickets_per_key: int = bound(
        20_000,
        "Tickets of one key that can still open or resume a stream.",
        at_limit="`POST /v1/tickets` answers 429 until tickets expire: unopened ones after a minute, opened ones after 12 hours.",
        ge=1,
    )
    ticket_rate: float = bound(
        50,
        "Tickets per second that one key can create, on each node, after a burst of 1000; 0: no limit.",
        at_limit="`POST /v1/tickets` answers 429 with `Retry-After`. Clients should resume their stream with the ticket they have.",
        ge=0,
        le=1e6,
    )
    ring_bytes: int = bound(
        1 * MiB,
        ge=16 * KiB,
        description="Memory for recent events, for each followed workspace.",
        at_limit="Older events leave the ring: readers that lag further are served from the database. Raise it if "
        "`streamer_catch_ups_total` grows fast.",
    )
    flush_window_ms: float = Field(
        5,
        ge=0,
        le=1000,
        description="Under load, events are coalesced for this long, or for as long as the last write took.",
    )
    write_buffer_bytes: int = bound(
        64 * KiB,
        ge=4 * KiB,
        le=16 * MiB,
        description="Unsent bytes above which a reader is slow and reads from the log.",
        at_limit="The reader leaves the live fan-out and is served from the database at its own speed; it misses "
        "nothing.",
    )
    max_subscriptions: int = bound(
        1000,
        ge=1,
        description="Subscriptions on one WebSocket.",
        at_limit="A further `subscribe` is answered with the error `rate_limited`; the socket stays open. Use "
        "another socket.",
    )
    max_messages_per_second: int = bound(
        1000,
        ge=1,
        description="Messages per second that are read from one WebSocket; faster input waits.",
        at_limit="Further messages wait, at the client if necessary. Send batches.",
    )
    max_wait_seconds: int = bound(
        60,
        ge=1,
        le=300,
        description="Longest `wait` of a long poll.",
        at_limit="A longer `wait` is refused with 400 `validation_error`. Repeat the request after each response.",
    )
    stall_seconds: float = bound(
        120,
        ge=1,
        le=3600,
        description="Time after which a reader that reads nothing is closed; it resumes exactly.",
        at_limit="The connection is closed with the reason `stalled`; the reader resumes from its position.",
    )
    connection_max_age: float = bound(
        4 * 3600,
        ge=0,
        description="Streams end at a random age between half of this and this; 0: never.",
        at_limit="The stream is closed with the reason `rotated`; the reader reconnects and resumes. 0 turns it off.",
    )
    drain_notice_seconds: float = bound(
        0,
        ge=0,
        le=600,
        description="Time in which a stopping server still serves everything but is not ready, so that proxies notice.",
        at_limit="The server closes its streams, then stops within `STREAMER_DRAIN_SECONDS`. Set it to twice the interval at which the proxy "
        "checks `/readyz`, and have the service manager wait longer than both together.",
    )
    drain_seconds: float = bound(
        10,
        ge=0,
        le=600,
        description="Time in which a stopping server closes its streams and exits.",
        at_limit="Connections that are still open are cut. Raise the limit if appends need longer; the service manager must wait longer "
        "than this.",
    )
    heartbeat_seconds: int = Field(15, ge=1, le=300, description="Time between heartbeats on a quiet stream.")
    poll_seconds: float = Field(
        1, gt=0, le=60, description="Interval at which followed logs are checked for commits that were not announced."
    )

    jwt_secret: SecretStr | None = Field(
        None, description="The secret of HS256 tokens, at least 32 bytes; none: they are rejected."
    )
    jwks_url: str | None = Field(
        None,
        description="URL of the issuer's keys for RS256, ES256 and EdDSA tokens; none: they are rejected.",
    )
    jwt_issuer: str | None = Field(None, min_length=1, description="Required value of a token's `iss`; none: any.")
    jwt_audience: str | None = Field(
        None,
        min_length=1,
        description="Required audience in a token's `aud`; none: a token with an audience is rejected.",
    )
    jwt_leeway: int = Field(5, ge=0, le=60, description="Allowed difference to the issuer's clock in seconds.")
    jwks_refresh_seconds: int = Field(
        300,
        ge=10,
        le=86_400,
        description="Time between fetches of the issuer's keys; an unknown key is fetched at once.",
    )

    @field_validator("memory_bytes")
    @classmethod
    def _has_room(cls, value: int, info: ValidationInfo) -> int:
        largest = max(info.data.get("max_body_bytes", 0), info.data.get("max_page_bytes", 0))
        if value < 4 * largest:
            raise ValueError(f"must be at least four times max_body_bytes and max_page_bytes: {4 * largest}")
        return value

    @field_validator("admin_key")
    @classmethod
    def _can_be_sent(cls, value: SecretStr | None) -> SecretStr | None:
        # Imported here because most commands read the settings, few need cryptography, and it is slow to import.
        from streamer.access.jwt import looks_like_jwt  # noqa: PLC0415

        if value is not None:
            key = value.get_secret_value()
            if not 20 <= len(key) <= 256:  # noqa: PLR2004
                raise ValueError("must have 20 to 256 characters")
            if key != key.strip():
                raise ValueError("begins or ends with a space or a line end, which no client can send")
            if not _BEARER.fullmatch(key):
                raise ValueError("must consist of A-Z a-z 0-9 - . _ ~ + / only, with = only at its end")
            if looks_like_jwt(key):
                raise ValueError("has the form of a JSON Web Token and would be read as one")
        return value

    @field_validator("data_dir")
    @classmethod
    def _is_text(cls, value: Path) -> Path:
        try:
            str(value).encode()
        except UnicodeEncodeError:
            raise ValueError("is not UTF-8") from None
        return value

    @field_validator("public_url")
    @classmethod
    def _is_plain(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment or "@" in value:
            raise ValueError(
                "must be http:// or https://, a host and an optional path, such as https://example.com/streamer"
            )
        if not _URL.fullmatch(value):
            raise ValueError("contains a character that must be percent-encoded in a URL")
        return value.rstrip("/")

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().startswith(("sqlite", "postgres")):
            raise ValueError("must begin with sqlite:/// or postgresql://")
        return value

    @field_validator("workers")
    @classmethod
    def _has_database(cls, value: int, info: ValidationInfo) -> int:
        database = info.data.get("database_url")
        if value > 1 and (database is None or not database.get_secret_value().startswith("postgres")):
            raise ValueError(
                "several processes need PostgreSQL: set STREAMER_DATABASE_URL to postgresql://USER:PASSWORD@HOST/NAME"
            )
        return value

    @field_validator("bus")
    @classmethod
    def _has_carrier(cls, value: str, info: ValidationInfo) -> str:
        database, redis = info.data.get("database_url"), info.data.get("redis_url")
        is_postgresql = database is not None and database.get_secret_value().startswith("postgres")
        if value == "redis" and redis is None:
            raise ValueError("redis needs STREAMER_REDIS_URL")
        if not is_postgresql and (value in {"redis", "postgres"} or (value == "auto" and redis is not None)):
            raise ValueError(
                "several nodes need PostgreSQL: set STREAMER_DATABASE_URL to postgresql://USER:PASSWORD@HOST/NAME, or STREAMER_BUS to none"
            )
        return value

    @field_validator("redis_url")
    @classmethod
    def _known_redis(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not _REDIS_URL.match(value.get_secret_value()):
            raise ValueError("must begin with redis://, rediss://, redis+sentinel://, rediss+sentinel:// or unix://")
        return value

    @field_validator("jwt_secret")
    @classmethod
    def _is_secret(cls, value: SecretStr | None) -> SecretStr | None:
        # Imported here because most commands read the settings, few need cryptography, and it is slow to import.
        from streamer.access.jwks import secret_key  # noqa: PLC0415

        if value is not None:
            secret_key(value.get_secret_value())
        return value

    @field_validator("jwks_url")
    @classmethod
    def _is_safe(cls, value: str | None) -> str | None:
        if value is not None and not _is_safe_source(value):
            raise ValueError("must be https://HOST/PATH; http:// only for this machine (localhost, 127.0.0.1, [::1])")
        return value

    @field_validator("cors_origins")
    @classmethod
    def _known_origins(cls, value: str) -> str:
        parse_origins(value)
        return value

    @field_validator("dialects")
    @classmethod
    def _known_dialects(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if value == ("none",):
            return ()
        unknown = [name for name in value if name not in DIALECT_NAMES]
        if unknown:
            raise ValueError(f"there is no dialect {unknown[0]}; there are {', '.join(DIALECT_NAMES)}, or none")
        return value

    @field_validator("append_rate", "ticket_rate")
    @classmethod
    def _fills(cls, value: float) -> float:
        if 0 < value < 0.001:  # noqa: PLR2004
            raise ValueError("must be 0, or at least 0.001")
        return value

    @property
    def carrier(self) -> Literal["redis", "postgres"] | None:
        """What announces commits to other nodes; None: there are none."""
        if self.bus == "auto":
            return "redis" if self.redis_url is not None else "postgres" if self._is_postgresql else None
        return None if self.bus == "none" else self.bus

    @property
    def _is_postgresql(self) -> bool:
        return self.database_url is not None and self.database_url.get_secret_value().startswith("postgres")

    @property
    def origins(self) -> Origins:
        """The allowed origins of pages, in addition to our own."""
        return parse_origins(self.cors_origins)

    @property
    def public_path(self) -> str:
        """The path under which a proxy serves this server, without a trailing slash."""
        return urlsplit(self.public_url).path if self.public_url else ""

    @property
    def database(self) -> str:
        """The database's URL; SQLite in the data directory by default."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{quote(str((self.data_dir / 'streamer.db').absolute()))}"


def load(flags: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings from flags, environment and TOML file.

    Raises:
        SettingsError: a setting is unknown or invalid.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    config = environment.get(f"{PREFIX}CONFIG")
    if config:
        for name, value in _read_toml(Path(config)).items():
            values[name], sources[name] = value, f"{name} in {config}"
    for variable, text in environment.items():
        name = variable.removeprefix(PREFIX)
        if name != variable and name not in {*CLIENT_VARIABLES, WORKER_VARIABLE} and text != "":
            values[name.lower()], sources[name.lower()] = text, variable
    for name, value in flags.items():
        if value is not None:
            values[name], sources[name] = value, "--" + name.replace("_", "-")
    unknown = [sources[name] for name in values if name not in Settings.model_fields]
    if unknown:
        raise SettingsError(f"there is no setting {unknown[0]}; docs/settings.md lists them all")
    try:
        return Settings(**values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = str(first["loc"][0])
        raise SettingsError(f"{sources.get(name, name)}: {first['msg']}") from None


def _is_safe_source(url: str) -> bool:
    """Return whether a URL is safe for fetching keys: anyone who can change them in transit can forge tokens, so only TLS or this machine."""
    try:
        parts = urlsplit(url)
        if not parts.hostname or parts.port == 0:
            return False
        if parts.scheme == "https" or parts.hostname == "localhost":
            return parts.scheme in {"https", "http"}
        return parts.scheme == "http" and ip_address(parts.hostname).is_loopback
    except ValueError:  # not a URL, or not an address
        return False


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise SettingsError(f"{PREFIX}CONFIG: cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{PREFIX}CONFIG: {path} is not TOML: {error}") from None
