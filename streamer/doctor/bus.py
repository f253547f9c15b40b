"""Checks of the bus between nodes, as one of them."""

import secrets
from typing import Any

from streamer.bus.link import OUTBOX_BYTES, Carrier, CarrierError
from streamer.bus.probe import Probe
from streamer.doctor.database import DatabaseChecks
from streamer.doctor.findings import CannotCheck, Check, Finding, fail, ok, warn
from streamer.settings import MiB, Settings

SLOW_SECONDS = 0.05
FIXES = {
    "connect": "start Redis; check STREAMER_REDIS_URL (user, password, TLS) and the network",
    "subscribe": "ACL SETUSER {user} +subscribe +unsubscribe &streamer:*",
    "publish": "ACL SETUSER {user} +publish &streamer:*",
    "receive": "connect to Redis itself: something in between does not carry publish and subscribe",
}
"""The next step for each stage of a probe of Redis."""
_POSTGRES_FIX = "check that nothing is between the nodes and PostgreSQL, or set STREAMER_REDIS_URL"


class BusChecks:
    """The checks of the bus that the settings choose, one after the other."""

    def __init__(self, settings: Settings, database: DatabaseChecks) -> None:
        self._settings = settings
        self._database = database
        self._redis = settings.redis_url.get_secret_value() if settings.redis_url is not None else ""
        self._probe: Probe | None = None
        self._problem = ""

    @property
    def checks(self) -> list[Check]:
        """The checks in their order."""
        return [
            Check("bus", self._send, self._late),
            Check("output limit", self._check_output_limit, self._late),
        ]

    async def _send(self) -> Finding:
        carrier = self._carrier()
        # The user may be allowed to use only the channels of this installation.
        instance = await self._database.instance() or secrets.token_hex(6)
        self._problem = "the bus does not work"
        self._probe = Probe(carrier)
        try:
            seconds = await self._probe.run(instance)
        except CarrierError as error:
            return self._failed(str(error))
        self._problem = ""
        name = await self._product() if carrier.name == "redis" else "LISTEN and NOTIFY of PostgreSQL"
        text = f"{name} carries messages both ways in {1000 * seconds:.1f} ms"
        if seconds > SLOW_SECONDS:
            return warn(text, f"move {'Redis' if self._redis else 'PostgreSQL'} closer to the nodes")
        return ok(text)

    def _carrier(self) -> Carrier:
        """Return the carrier as a node creates it."""
        # Imported here because their libraries are slow to import, and most installations need none or one of them.
        if self._settings.carrier == "redis":
            from streamer.bus.redis import carrier_of  # noqa: PLC0415

            try:
                return carrier_of(self._redis)
            except ValueError:  # its message can quote a part of the password
                raise CannotCheck(
                    "STREAMER_REDIS_URL cannot be read",
                    "percent-encode special characters in user and password; see docs/nodes.md",
                ) from None
        listening = self._database.database.listening
        if self._settings.carrier is None or listening is None:
            raise CannotCheck(self._without())
        from streamer.bus.postgres import PostgresCarrier  # noqa: PLC0415

        return PostgresCarrier(listening)

    def _without(self) -> str:
        """Return why there is no bus."""
        if self._database.database.is_sqlite:
            return "SQLite serves a single node"
        return "STREAMER_BUS is none" if self._settings.carrier is None else "the database is behind a pooler"

    async def _ask(self, *command: str) -> list[Any]:
        """Return Redis' reply to a command. Raises CannotCheck if it refuses."""
        from streamer.bus.redis import Refused, carrier_of  # noqa: PLC0415

        carrier = carrier_of(self._redis)
        try:
            return list(await carrier.ask(*command))
        except Refused:
            raise CannotCheck(
                f"the user may not ask Redis with {command[0]}", f"as its admin: redis-cli {' '.join(command)}"
            ) from None
        except (CarrierError, OSError) as error:
            raise CannotCheck(f"Redis was lost: {error}") from None
        finally:
            await carrier.close()

    async def _product(self) -> str:
        try:
            pairs = await self._ask("HELLO")
        except CannotCheck:
            return "Redis"
        facts = dict(zip(map(_text, pairs[::2]), pairs[1::2], strict=False))
        return f"Redis {_text(facts.get('version', ''))}".strip()

    async def _check_output_limit(self) -> Finding:
        if self._settings.carrier != "redis":
            raise CannotCheck("Redis is not used")
        if self._problem:
            raise CannotCheck(self._problem)
        _, value = await self._ask("CONFIG", "GET", "client-output-buffer-limit")
        words = _text(value).split()
        hard, soft, seconds = map(int, words[words.index("pubsub") + 1 :][:3])
        fix = 'redis-cli CONFIG SET client-output-buffer-limit "pubsub 32mb 8mb 60", and the same in redis.conf'
        if hard == 0:
            return warn("a node that does not read can fill the memory of Redis: there is no limit", fix)
        text = f"Redis cuts off a node that leaves {hard / MiB:.3g} MiB unread"
        if soft:
            text += f", or {soft / MiB:.3g} MiB for {seconds} s"
        if hard < OUTBOX_BYTES:
            return warn(f"{text}; a busy node can send {OUTBOX_BYTES // MiB} MiB at once", fix)
        return ok(text)

    def _late(self) -> Finding:
        if self._problem and self._probe is not None:
            return self._failed("no answer in time")
        return fail("no answer in time", FIXES["connect"])

    def _failed(self, why: str) -> Finding:
        stage = self._probe.stage if self._probe is not None else "connect"
        text = f"cannot {stage}: {why}"
        if self._settings.carrier != "redis":
            return fail(text, _POSTGRES_FIX)
        if why == "no answer in time" and stage != "receive":
            return fail(text, "see whether Redis is frozen or overloaded, or a firewall drops its packets")
        return fail(text, FIXES[stage].format(user=_user_of(self._redis)))


def _user_of(url: str) -> str:
    """Return the user in Redis' URL, which is not a secret."""
    user, colon, _ = url.partition("://")[2].rpartition("@")[0].partition(":")
    return user if colon and user else "default"


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
