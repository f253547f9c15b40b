"""Backups: made beside running servers, verified, restored. One file each, the same form for both databases (`archive`)."""
