"""The pure parts: no asyncio, no I/O, no third-party package except orjson."""
