"""Records beside the log: workspaces, members, credentials and tickets."""
