"""Load tests of temporary servers, in which every delivery is checked.

Each part is a separate process, so that the CPU time of the server can be measured::

    publishers   append at their intended times, over HTTP               POST -> 201 with seq
    server       `streamer serve` on fresh data, or a peer               measured by /proc
    readers      raw sockets, SSE or WebSocket                           every byte is checked

All of them use the same clock (`time.monotonic_ns`). An event carries its number and its intended time. Every reader must receive exactly
once what the publishers had acknowledged, in the order of `seq`.
"""
