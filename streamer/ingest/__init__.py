"""From a well-formed event to one that is ready to be stored: completed, redacted, encoded, within the limits."""
