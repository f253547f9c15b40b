"""How a commit is told to whoever follows the workspace. A hint: what it loses, the feed finds in the log."""
