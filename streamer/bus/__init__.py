"""Announces commits to the readers of a workspace. It is a hint: the feed finds lost announcements in the log."""
