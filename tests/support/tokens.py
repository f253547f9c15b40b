"""Users' tokens, signed with the secret that the tests' servers share."""

import time
from typing import Any

import jwt

from tests.support.api import Api

SECRET = "a-secret-of-the-tests-that-is-long-enough-0123456789"


def token(user: str, *, seconds: float = 3600, **claims: Any) -> str:
    """Sign a token for a person; keywords are additional claims."""
    return jwt.encode({"sub": user, "exp": int(time.time() + seconds), **claims}, SECRET, "HS256")


def person(api: Api, user: str, **claims: Any) -> Api:
    """Return the API with a person's token."""
    return api.with_key(token(user, **claims))


async def join(api: Api, workspace: str, user: str, role: str) -> Api:
    """Make a person a member of an existing workspace; return the API with their token."""
    answer = await api.put(f"/v1/workspaces/{workspace}/members/{user}", {"role": role})
    assert answer.status in {200, 201}, answer.body
    return person(api, user)
