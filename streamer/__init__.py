"""streamer: a durable, real-time activity log. Append an event; every authorized client receives it at once.

The path of an event, folder by folder::

    http         parse, check the grant: the native API, or one of the dialects, which offer a foreign API
    ingest       validate, redact, encode once
    store        one transaction for many appends: assigns seq and timestamp, updates entities
    bus          notifies the other parts (and nodes), after the commit
    feed         the log on this node, as frames; gaps are filled from the store
    fanout       cohorts of equal subscriptions, replay followed by live
    transports   SSE, WebSocket, long poll: the same bytes to every reader

`core` holds the pure parts (event, position, filter, frame, errors) that all of them share;
`app` is the composition root, the only place that knows every part.
"""

__version__ = "0.1.0"
