"""Credentials, roles, isolation and the audit trail."""
