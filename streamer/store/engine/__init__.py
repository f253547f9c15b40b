"""The database: connections with deadlines, locks, outages, readiness."""
