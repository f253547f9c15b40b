"""Streams and their fan-out: replay, live, limits of memory and time."""
