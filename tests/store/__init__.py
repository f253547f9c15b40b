"""The log and the records on SQLite and PostgreSQL."""
