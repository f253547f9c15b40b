"""The pure parts: no asyncio, no I/O, no third party but orjson."""
