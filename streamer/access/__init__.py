"""Authentication and authorization. This package alone decides on access to workspaces."""
