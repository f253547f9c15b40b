"""What every HTTP API of ours shares, the native one and the dialects: routes, bodies, errors, paging, reading over many workspaces."""
