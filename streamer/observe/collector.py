"""Keeps the pauses of Python's garbage collector short, however many clients are connected.

Reference counts free nearly everything. The collector looks for cycles, and a full collection looks at every object there is: with 20,000
open streams that took 100 ms, in which no client was served. So full collections are not left to the collector. Objects that have grown old
are frozen, which takes no time: it looks at them no more. Connections leave no cycles when they end, so frozen ones are freed as all are.
"""

import gc

YOUNG = 10_000
"""Objects made, and not freed, between two looks at the youngest. By default it is 700, and finds little but the requests under way."""
MIDDLE = 4
"""Looks at the youngest between two looks at those that survived one: so each looks at 50,000 objects at most, some 10 ms."""
NEVER = 1_000_000
"""Looks at the middle before a full collection: never, in effect."""
FEW = 60_000
"""Objects of which a full collection takes no longer than a look at the middle."""
TURN_SECONDS = 10
THOROUGH_TURNS = 360
"""Turns between two collections of everything, the frozen included: an hour. They are left out while there is very much."""


class Collector:
    """Collects what can be collected without a long pause."""

    def __init__(self) -> None:
        gc.collect()
        gc.freeze()
        self._at_start = gc.get_freeze_count()
        self._turns = 0
        gc.set_threshold(YOUNG, MIDDLE, NEVER)

    async def turn(self) -> None:
        """Collect the objects that have grown old since the last turn, if they are few, and freeze what is left of them."""
        self._turns += 1
        old = gc.get_count()[2] * YOUNG * MIDDLE
        if self._turns % THOROUGH_TURNS == 0 and gc.get_freeze_count() - self._at_start + old < FEW:
            gc.unfreeze()
            gc.collect()
        elif 0 < old < FEW:
            gc.collect()
        if old:
            gc.freeze()
