"""The feed: every reader of a workspace gets each event once, in order, through every fault.

hub         one channel a workspace: hears of commits, finds holes, flushes, beats the heart; all connections, and their end
channel     the tail ring, and passes that bring the cohorts of equal subscriptions to its end, step by step (pure)
cohort      live readers that share every byte (pure but for the sinks)
pace        how much each account's filters may search (pure)
tail        the ring of recent frames (pure)
connection  a client's connection and the readers on it (pure but for the sink)
reasons     why the server ends a connection or a subscription (pure)
session     one reader's progress: REPLAY -> LIVE <-> CATCH_UP -> CLOSED (pure)
feed        moves a reader on: log, ring, live, and back when it is slow
"""
