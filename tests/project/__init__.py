"""The project itself: documentation, prose, dependencies."""
