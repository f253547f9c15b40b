"""In whose name a principal appends."""

from streamer.auth.principal import ADMIN, EVERYWHERE, WRITE, Principal
from streamer.ingest.intake import Author


def author_of(principal: Principal, workspace: str) -> Author:
    """Return the author of what a principal appends in a workspace."""
    return Author(
        principal.id,
        principal.actor,
        may_create_workspace=bool({WRITE, ADMIN} & principal.grants.get(EVERYWHERE, frozenset())),
        account=principal.account,
        name=principal.actor_name,
        may_claim=bool({workspace, EVERYWHERE} & principal.may_claim),
    )
