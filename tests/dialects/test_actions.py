"""The registry of actions is complete, documented and served."""

from collections.abc import Iterator
from typing import Any

import pytest

from streamer.core.known_actions import ACTIONS
from streamer.settings import SettingsError, load
from tests.conftest import MakeServer
from tests.support.api import Api
from tests.support.tools import ROOT

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def _of(noun: str, verbs: str, joint: str = ".") -> Iterator[str]:
    return (noun + joint + verb for verb in verbs.split())


NAMED = {
    "PraisonAI": {
        *_of("issue", "created updated deleted assigned agent_assigned agent_completed agent_failed"),
        *_of("project", "created updated"),
        *_of("label", "created deleted"),
        *("user.updated", "comment.deleted", "agent.created"),
        *_of("member", "added removed role_changed"),
        "workspace.settings_updated",
    },
    "Paperclip": {
        *_of("company", "created updated archived budget_updated imported"),
        *_of("agent", "created hire_created updated paused resumed terminated deleted key_created budget_updated"),
        *_of("agent", "budget_limit_reached permissions_updated instructions_path_updated config_rolled_back"),
        "agent.runtime_session_reset",
        *_of("issue", "created updated checked_out released deleted comment_added attachment_added attachment_removed"),
        *_of("issue", "approval_linked approval_unlinked checkout_lock_adopted"),
        *_of("approval", "created approved rejected revision_requested resubmitted comment_added"),
        *_of("approval", "requester_wakeup_queued requester_wakeup_failed"),
        *_of("heartbeat", "invoked cancelled"),
        "cost.reported",
        *_of("goal", "created updated deleted"),
        *_of("project", "created updated deleted workspace_created workspace_updated workspace_deleted"),
        *_of("label", "created deleted"),
        "manual.intervention",
    },
    "Evershell": {
        *_of("task", "submitted delivered running completed failed cancelled delivery_failed", "_"),
        *_of("session", "started reset", "_"),
        *_of("iteration", "started completed", "_"),
        *_of("compaction", "started completed", "_"),
        *_of("workspace", "created idle busy stopping stopped failed archived forked", "_"),
        *_of("snapshot", "saved failed", "_"),
        "policy_decision",
        *_of("role", "created updated deleted", "_"),
        *_of("credential", "created rotated deleted", "_"),
        *_of("secret", "created updated deleted", "_"),
        *_of("api_key", "created revoked", "_"),
        *_of("member", "invited removed", "_"),
    },
    "streamer": {
        *_of("workspace", "created settings_updated deleted"),
        *_of("member", "added removed role_changed"),
        *_of("key", "created revoked"),
        "audit.read",
        *_of("run", "queued started succeeded failed cancelled timed_out"),
    },
}
"""The actions named in the activity APIs' documents, and the server's own."""


def _documented() -> dict[str, list[str]]:
    """Return the other cells of each action's row in docs/actions.md."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (ROOT / "docs" / "actions.md").read_text().splitlines()
        if line.startswith("| `")
    ]
    found = {name.strip("`"): cells for name, *cells in rows}
    assert len(found) == len(rows)
    return found


def test_every_named_action_is_known() -> None:
    """The registry contains exactly the actions that the documents name."""
    assert set(ACTIONS) == set.union(*NAMED.values())


def test_actions_are_documented() -> None:
    """docs/actions.md lists exactly the actions of the registry, with their categories and sources."""
    wanted = {
        name: (action.category, ", ".join(source for source, names in NAMED.items() if name in names))
        for name, action in ACTIONS.items()
    }
    assert {name: (cells[0], cells[2]) for name, cells in _documented().items()} == wanted


async def test_samples_come_back_as_documented(api: Api) -> None:
    """Each sample is stored unchanged and gets the category and sentence of docs/actions.md."""
    for name, (category, sentence, _) in _documented().items():
        sample = ACTIONS[name].sample
        stored = (await api.post("/v1/workspaces/w/events", sample)).expect(201)
        assert (stored["action"], stored["category"], stored["description"]) == (name, category, sentence)
        kept = {key: {**stored[key], **value} if isinstance(value, dict) else value for key, value in sample.items()}
        assert {key: stored[key] for key in sample} == kept


@pytest.mark.parametrize(
    ("event", "sentence"),
    [
        ({"action": "deploy.rolled_back", "entity": {"type": "release", "id": "7"}}, "ann rolled back release 7"),
        ({"action": "x.y", "entity": {"type": "pull_request", "id": "7"}}, "ann y pull request 7"),
        ({"action": "issue.exploded"}, "ann exploded issue"),
        ({"action": "task_exploded"}, "ann task exploded"),
        ({"action": "task_submitted"}, "ann submitted task"),
        ({"action": "api_key_revoked"}, "ann revoked api key"),
        ({"action": "member.added", "entity": {"type": "workspace_member", "id": "b"}}, "ann added workspace member b"),
        ({"action": "agent.budget_limit_reached", "entity": {"id": "bob"}}, "agent bob reached its budget limit"),
        (
            {
                "action": "issue.created",
                "actor": {"type": "user", "id": "1", "name": "{1}{entity}"},
                "entity": {"id": "{0}"},
            },
            "{1}{entity} created issue {0}",
        ),
    ],
)
@on_sqlite
async def test_sentences(api: Api, event: dict[str, Any], sentence: str) -> None:
    """An unknown action is stored, too. Sentences name what is present, and names appear in them unchanged."""
    stored = (await api.append("w", **event)).expect(201)
    assert (stored["category"], stored["description"]) == (
        ACTIONS[event["action"]].category if event["action"] in ACTIONS else "activity",
        sentence,
    )


@on_sqlite
async def test_operators_name_audit_actions(make_server: MakeServer, api: Api) -> None:
    """Actions in STREAMER_AUDIT_ACTIONS are audit unless the event sets a category. Only callers with audit access see them."""
    server = await make_server(audit_actions=("deploy.approved", "freeze"))
    api = api.at(server.url)
    given: list[dict[str, str]] = [
        {"action": "deploy.approved"},
        {"action": "freeze"},
        {"action": "deploy.made"},
        {"action": "policy_decision"},
        {"action": "freeze", "category": "activity"},
    ]
    stored = [(await api.append("w", **event)).expect(201) for event in given]
    assert [event["category"] for event in stored] == ["audit", "audit", "activity", "audit", "activity"]
    reader = api.with_key(await api.create_key("w", scopes=["workspace:read"]))
    assert await reader.history("w", order="asc") == [stored[2], stored[4]]


def test_audit_actions_are_a_list() -> None:
    """STREAMER_AUDIT_ACTIONS is a comma-separated list. An invalid action stops the start, and the error names it."""
    assert load({}, {"STREAMER_AUDIT_ACTIONS": "deploy.approved, freeze,"}).audit_actions == (
        "deploy.approved",
        "freeze",
    )
    for wrong in ("deploy.*", "*", "x" * 513, "a\0b"):
        with pytest.raises(SettingsError, match=r"STREAMER_AUDIT_ACTIONS: .*a complete action"):
            load({}, {"STREAMER_AUDIT_ACTIONS": wrong})
