"""Several nodes: the bus, workers, faults and failovers."""
