"""Fan-out: bytes for this node's subscribers. A channel of the feed calls an audience; its cohorts write to sinks.

subscribers   what transports call: connect, follow, start, leave; moves readers on from the log or the ring to live
replay        parts of the log for readers that catch up, read and encoded once for all that ask for the same
audience      the live readers of one channel: passes that bring cohorts to its end, step by step (pure)
cohort        live readers that share every byte (pure except for the sinks)
pace          how much each account's filters can search (pure)
connection    a client's connection and the readers on it (pure except for the sink)
connections   all connections: heartbeats, stalls, rotation, drain
dependencies  what is open by which credential, ticket or role; closes it when that ends
places        how many subscriptions each account has open
"""
