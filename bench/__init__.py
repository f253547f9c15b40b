"""Measurements. Each starts a server of its own as a process, loads it from this one, and prints a parameter line and a table."""
