"""In whose name a principal appends, and where it can."""

from streamer.auth.principal import ADMIN, EVERYWHERE, WRITE, Principal
from streamer.core.errors import ValidationError
from streamer.core.ids import SYSTEM_WORKSPACE, is_id
from streamer.ingest.intake import Author


def check_writable(workspace: str) -> str:
    """Return a workspace's id if it is of the right form and not reserved. Raises ValidationError."""
    if not is_id(workspace):
        raise ValidationError({"workspace": "1-128 of A-Z a-z 0-9 . _ : ~ @ -"})
    if workspace == SYSTEM_WORKSPACE:
        raise ValidationError({"workspace": f"{SYSTEM_WORKSPACE} is reserved for the server's own events"})
    return workspace


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
