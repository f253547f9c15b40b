"""The HTTP server: all that depends on the private parts of aiohttp, whose version is pinned for it. It knows no operation."""
