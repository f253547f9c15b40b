"""What `./run bench` does: real servers under load, and every delivery checked.

Each part is a process of its own, so that the server's CPU time is its own::

    publishers   append at their intended times, over HTTP               POST -> 201 with seq
    server       `streamer serve` on fresh data, or a peer               measured by /proc
    readers      raw sockets, SSE or WebSocket                           every byte is looked at

All of them have the same clock (`time.monotonic_ns`). An event carries its number and the time at which it was to be sent; what the
publishers were told of (numbers, in the order of their seqs) is what every reader must have got, each once.
"""
