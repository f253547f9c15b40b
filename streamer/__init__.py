"""streamer: an activity server. Append what happens; everyone who may know learns it at once.

The way of an event, folder by folder::

    api          parse, check the grant; or one of the dialects, which speak a foreign API (`edge` is what they share with it)
    ingest       validate, redact, encode once
    store        one transaction for many appends: seq and timestamp are given here, entities are kept
    bus          tells the other parts (and nodes), after the commit
    feed         tail ring, cohorts of equal subscriptions, replay joined to live
    transports   SSE: the same bytes to every reader

`core` holds the pure parts (event, position, filter, frame, errors) that all of them share;
`app` is the composition root, the only place that knows every part.
"""

__version__ = "0.1.0"
