"""Backups: made while servers run, verified, restored.

Each is one file, with the same format for both databases (`archive`).
"""
