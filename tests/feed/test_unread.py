"""The memory for unread events: shares per account, queues in order of arrival, and no waiting while there is room."""

from collections.abc import Callable
from functools import partial

from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.core.shares import LITTLE_PART
from streamer.core.unread import SMALL, Hold, Unread

LIMIT = 64 * SMALL
ACCOUNTS = ("a", "a", "a", "b", "b", "c", "d")
Step = tuple[int, str, int]
STEPS = st.lists(
    st.tuples(
        st.integers(0, len(ACCOUNTS) - 1),
        st.sampled_from(["reserve", "reserve", "offer", "shrink", "withdraw", "release"]),
        st.integers(0, 40 * SMALL),
    ),
    max_size=80,
)


class Model:
    """Connections of several accounts, and the queues of those that wait."""

    def __init__(self) -> None:
        self.unread = Unread(LIMIT)
        self.holds = [self.unread.hold(account) for account in ACCOUNTS]
        self.lines: dict[str, list[tuple[int, int]]] = {account: [] for account in ACCOUNTS}
        """By account: connection and size, in order of arrival."""

    def granted(self, index: int) -> Callable[[], None]:
        """Return the callback for the end of a connection's wait."""

        def grant() -> None:
            first, size = self.lines[ACCOUNTS[index]].pop(0)
            assert first == index, "the queue is served in order of arrival"
            assert self.holds[index].size >= (size if size > SMALL else 0)

        return grant

    def waits(self, index: int) -> bool:
        """Return whether a connection waits."""
        return any(each == index for each, _ in self.lines[ACCOUNTS[index]])

    def used(self, account: str) -> int:
        """Return what an account holds."""
        return sum(hold.size for hold, whose in zip(self.holds, ACCOUNTS, strict=True) if whose == account)

    def do(self, index: int, step: str, size: int) -> None:
        """Carry out one step, if the connection's state allows it."""
        hold, line = self.holds[index], self.lines[ACCOUNTS[index]]
        if step == "reserve" and not self.waits(index):
            others_wait = bool(line)
            line.append((index, size))
            if hold.reserve(size, self.granted(index)):
                line.remove((index, size))
                assert not others_wait or size <= max(SMALL, hold.size), "no connection overtakes a waiting one"
        elif step == "offer" and hold.has_room(size):
            assert not line or size <= max(SMALL, hold.size)
            hold.resize(max(size, hold.size))
        elif step == "shrink":
            hold.resize(min(size, hold.size))
        elif step == "withdraw":
            self.give_up(index)
        elif step == "release":
            hold.release()

    def give_up(self, index: int) -> None:
        """Cancel a connection's wait."""
        line = self.lines[ACCOUNTS[index]]
        line[:] = [each for each in line if each[0] != index]
        self.holds[index].withdraw()

    def check(self) -> None:
        """Check the sum, the shares, and that the first in each queue has to wait."""
        assert self.unread.used == sum(hold.size for hold in self.holds)
        for account, line in self.lines.items():
            own = self.used(account)
            several = (
                sum(hold.size > 0 for hold, whose in zip(self.holds, ACCOUNTS, strict=True) if whose == account) > 1
            )
            assert not several or own <= LIMIT // 2, "only a single connection can exceed the account's share"
            if line:
                index, size = line[0]
                more = size - self.holds[index].size
                fits_little = own + more <= LIMIT // LITTLE_PART and self.unread.used + more <= LIMIT
                fits = own + more <= LIMIT // 2 and self.unread.used + more <= LIMIT - LIMIT // 8
                assert self.unread.used, "nobody waits while nothing is used"
                assert not fits_little, "nobody waits while there is room"
                assert not fits, "nobody waits while there is room"


@given(STEPS)
@settings(max_examples=300)
def test_shares_and_lines(steps: list[Step]) -> None:
    """After any steps of connections, shares are kept, queues are served in order, and in the end everything is free."""
    model = Model()
    for step in steps:
        model.do(*step)
        model.check()
    for index, hold in enumerate(model.holds):
        model.give_up(index)
        hold.release()
    assert model.unread.used == 0
    assert not any(model.lines.values())
    assert model.holds[0].reserve(2 * LIMIT, lambda: None), "an unused budget fits any size"


def test_a_long_line_costs_nothing_to_leave() -> None:
    """Connections that give up leave nothing behind, and the next one is served."""
    unread = Unread(LIMIT)
    reader, waiting, last = (unread.hold("a") for _ in range(3))
    reader.resize(LIMIT // 2)
    for _ in range(100_000):
        assert not waiting.reserve(LIMIT // 4, lambda: None)
        waiting.withdraw()
    granted: list[Hold] = []
    assert not waiting.reserve(LIMIT // 2, lambda: granted.append(waiting))
    assert not last.reserve(LIMIT // 4, lambda: granted.append(last))
    reader.resize(LIMIT // 4)
    assert granted == []
    waiting.withdraw()
    assert granted == [last]


def test_more_accounts_than_are_looked_at_at_once() -> None:
    """The account that released memory is served first, and then all others in turn."""
    unread = Unread(LIMIT)
    readers = [unread.hold("a"), unread.hold("b")]
    for reader in readers:
        reader.resize(LIMIT // 2 - 4 * SMALL)
    waiting = [unread.hold(f"w{n}") for n in range(50)]
    served: list[Hold] = []
    for hold in waiting:
        assert not hold.reserve(8 * SMALL, partial(served.append, hold))
    last = unread.hold("b")
    assert not last.reserve(8 * SMALL, partial(served.append, last))
    readers[1].resize(LIMIT // 2 - 16 * SMALL)
    assert served == [last]
    readers[0].release()
    for hold in served:  # it grows meanwhile
        hold.release()
    assert set(served) == {last, *waiting}
    assert len(served) == 51
