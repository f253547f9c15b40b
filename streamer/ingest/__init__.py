"""Turns a well-formed event into one that is ready to be stored: completed, redacted, encoded, within the limits."""
