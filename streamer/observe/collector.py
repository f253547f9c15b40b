"""Keeps the pauses of Python's garbage collector short, however many clients are connected.

Reference counting frees nearly everything. The collector searches for cycles, and a full collection visits every
object: with 20,000 open streams that took 100 ms, during which no client was served. So full collections are not left
to the collector. Old objects are frozen, which costs nothing, and the collector no longer visits them. Closed
connections leave no cycles, so frozen ones are freed by reference counting as usual.
"""

import gc

YOUNG = 10_000
"""Objects allocated, and not freed, between two collections of the youngest generation.

The default of 700 finds little except running requests.
"""
MIDDLE = 4
"""Collections of the youngest generation per collection of the middle one, which therefore visits at most 50,000 objects, in some 10 ms."""
NEVER = 1_000_000
"""Collections of the middle generation before a full one: never, in effect."""
FEW = 60_000
"""Number of objects for which a full collection takes no longer than one of the middle generation."""
TURN_SECONDS = 10
THOROUGH_TURNS = 360
"""Turns between two collections of everything, including frozen objects: an hour.

They are skipped while there are very many objects.
"""


class Collector:
    """Collects garbage without a long pause."""

    def __init__(self) -> None:
        gc.collect()
        gc.freeze()
        self._at_start = gc.get_freeze_count()
        self._turns = 0
        gc.set_threshold(YOUNG, MIDDLE, NEVER)

    async def turn(self) -> None:
        """Collect the objects that became old since the last turn, if they are few, and freeze the rest."""
        self._turns += 1
        old = gc.get_count()[2] * YOUNG * MIDDLE
        if self._turns % THOROUGH_TURNS == 0 and gc.get_freeze_count() - self._at_start + old < FEW:
            gc.unfreeze()
            gc.collect()
        elif 0 < old < FEW:
            gc.collect()
        if old:
            gc.freeze()
