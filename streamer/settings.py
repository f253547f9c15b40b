"""Every setting, in one place: environment variables `STREAMER_…`, a TOML file, or flags of `streamer serve`.

Flags win over the environment, the environment over the file. A setting that does not exist or does not parse stops the start with
its name.
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

PREFIX = "STREAMER_"
CLIENT_VARIABLES = ("URL", "KEY", "CONFIG")
"""Variables with our prefix that are not the server's: where and as whom client commands call, and the TOML file's path."""

KiB, MiB = 2**10, 2**20


class SettingsError(Exception):
    """A setting does not exist or does not parse; the text names it."""


class Settings(BaseModel):
    """The server's settings. Sizes are bytes, times are seconds unless the name says otherwise."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(8080, description="Port to listen on; 0 takes a free one.")
    data_dir: Path = Field(Path("data"), description="Folder of the SQLite database and the admin key's file.")
    database_url: SecretStr | None = Field(
        None,
        description="`sqlite:///FILE` or `postgresql://USER:PASSWORD@HOST/NAME`; none: SQLite in the data directory.",
    )
    admin_key: SecretStr | None = Field(
        None, description="The admin key, at least 20 characters; none: made at the first start."
    )
    log_format: Literal["auto", "console", "json"] = Field(
        "auto", description="`auto`: console on a terminal, else JSON."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The least severe level to log."
    )
    metrics_public: bool = Field(False, description="Serve `/metrics` without a key.")

    max_event_bytes: int = Field(256 * KiB, ge=1 * KiB, le=16 * MiB, description="Largest event, as stored.")
    max_details_depth: int = Field(32, ge=1, le=200, description="Levels of nesting in `details` and `changes`.")
    max_batch_events: int = Field(1000, ge=1, le=10_000, description="Events in one batch.")
    max_body_bytes: int = Field(
        8 * MiB, ge=1 * KiB, le=256 * MiB, description="Largest request body, a batch included."
    )
    max_page_events: int = Field(1000, ge=1, le=10_000, description="Largest `limit` of a page of history.")
    max_page_bytes: int = Field(
        8 * MiB, ge=1 * KiB, le=256 * MiB, description="Bytes of events in a page of history; one event always fits."
    )
    body_timeout: float = Field(30, gt=0, le=3600, description="Seconds in which a request's body must arrive.")
    append_queue_events: int = Field(
        20_000, ge=1, description="Events that may wait for the disk before appends get 503."
    )
    append_queue_bytes: int = Field(64 * MiB, ge=1 * KiB, description="Bytes of events that may wait for the disk.")
    idempotency_hours: int = Field(24, ge=1, le=720, description="How long an `Idempotency-Key` is remembered.")

    max_streams_per_key: int = Field(20_000, ge=1, description="Streams that one key may have open.")
    ring_bytes: int = Field(1 * MiB, ge=16 * KiB, description="Memory for recent events, for each followed workspace.")
    flush_window_ms: float = Field(
        5,
        ge=0,
        le=1000,
        description="Under load, events are coalesced for this long, or as long as writing the last ones took.",
    )
    write_buffer_bytes: int = Field(
        64 * KiB,
        ge=4 * KiB,
        le=16 * MiB,
        description="Unsent bytes above which a reader is slow and reads from the log.",
    )
    max_subscriptions: int = Field(1000, ge=1, description="Subscriptions on one WebSocket.")
    max_wait_seconds: int = Field(60, ge=1, le=300, description="Longest `wait` of a long poll.")
    stall_seconds: float = Field(
        120, ge=1, le=3600, description="Time after which a reader that takes nothing is closed; it resumes exactly."
    )
    connection_max_age: float = Field(
        4 * 3600, ge=0, description="Streams end at a random age between half of this and this; 0: never."
    )
    drain_seconds: float = Field(
        10, ge=0, le=600, description="Time in which the server closes its streams and ends when it is stopped."
    )
    heartbeat_seconds: int = Field(15, ge=1, le=300, description="Time between signs of life on a quiet stream.")
    poll_seconds: float = Field(1, gt=0, le=60, description="How often followed logs are checked for unheard commits.")

    @field_validator("admin_key")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not 20 <= len(value.get_secret_value()) <= 256:  # noqa: PLR2004
            raise ValueError("must have 20 to 256 characters")
        return value

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().startswith(("sqlite", "postgres")):
            raise ValueError("must begin with sqlite:/// or postgresql://")
        return value

    @property
    def database(self) -> str:
        """The database's URL, SQLite in the data directory unless another is set."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{(self.data_dir / 'streamer.db').absolute()}"


def load(flags: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> Settings:
    """Gather the settings from flags, environment and TOML file.

    Raises:
        SettingsError: one does not exist or does not parse.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    config = environment.get(f"{PREFIX}CONFIG")
    if config:
        for name, value in _read_toml(Path(config)).items():
            values[name], sources[name] = value, f"{name} in {config}"
    for variable, text in environment.items():
        name = variable.removeprefix(PREFIX)
        if name != variable and name not in CLIENT_VARIABLES and text != "":
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


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise SettingsError(f"{PREFIX}CONFIG: cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{PREFIX}CONFIG: {path} is not TOML: {error}") from None
