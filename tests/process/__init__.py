"""A server as a process: starts, stops, logs, background loops."""
