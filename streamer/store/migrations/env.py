"""What alembic runs: it is handed a connection by `store.migrate` and never opens one."""

from alembic import context

from streamer.store.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
