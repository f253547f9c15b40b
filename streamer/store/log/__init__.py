"""The log: appends by group commit, reads of pages and single events, and the entities derived from it."""
