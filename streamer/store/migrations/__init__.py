"""The migrations, run by alembic: at start, under a lock, or by `streamer migrate`."""
