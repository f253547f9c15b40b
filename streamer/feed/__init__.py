"""The feed: every reader of a workspace gets each event once, in order, through every fault.

hub       one channel a workspace: hears of commits, finds holes, flushes, beats the heart
channel   the tail ring and the cohorts of equal subscriptions (pure)
tail      the ring of recent frames (pure)
session   one reader's progress: REPLAY -> LIVE <-> CATCH_UP -> CLOSED (pure)
feed      drives a session: log pages, ring, live, and back when the reader is slow
"""
