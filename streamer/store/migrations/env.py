"""The entry point for alembic: `store.migrate` passes a connection, and it never opens one."""

from alembic import context

from streamer.store.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
