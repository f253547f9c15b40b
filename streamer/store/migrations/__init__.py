"""The history of the tables, run by alembic: at start, under a lock, or by `streamer migrate`."""
