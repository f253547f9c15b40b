"""An Idempotency-Key is valid for its full lifetime, whatever happens to the clock."""

from pathlib import Path

from streamer.store.engine.database import Database
from streamer.store.engine.steady import SteadyClock
from streamer.store.migrate import migrate
from tests.store.test_store import opened

YEAR_US = 365 * 86_400 * 1_000_000


async def test_a_clock_that_is_set_forgets_no_key(tmp_path: Path) -> None:
    """If the clock is set forward or back between two attempts, even across a restart, the second gets the first's response."""
    url = f"sqlite:///{tmp_path / 'clock.db'}"
    database = Database(url)
    await migrate(database)
    await database.close()
    async with opened(url) as store:
        (first,) = (await store.append({}, key="k")).events
        for jump in (YEAR_US, -2 * YEAR_US, YEAR_US):
            store.now += jump
            (again,) = (await store.append({}, key="k")).events
            assert again.seq == first.seq
        now = store.now
    async with opened(url) as store:
        store.now = now + YEAR_US
        (again,) = (await store.append({}, key="k")).events
        assert again.seq == first.seq
        (other,) = (await store.append({}, key="other")).events
        assert other.seq == 2


def test_ages_pass() -> None:
    """The clock follows the monotonic clock, and adopts changes of the wall clock within a minute."""
    at = [0.0]
    clock = SteadyClock(lambda: at[0])
    clock.start(1_000_000)
    at[0] += 10
    assert clock.read(12_000_000) == 12_000_000, "drift"
    assert clock.read(12_000_000 + YEAR_US) == 12_000_000, "set"
    at[0] += 3600
    assert clock.read(12_000_000 + YEAR_US) == 3_612_000_000
