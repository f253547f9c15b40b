"""Checks of an installation: its database, bus, server and machine. `streamer doctor` shows what they find."""
