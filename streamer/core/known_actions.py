"""All known actions: category, sentence and sample.

These are the actions of the applications whose APIs are served here, and those that the server itself appends. To add
an action, add one entry here and a line to docs/actions.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

Event = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Action:
    """A known action."""

    category: str
    """`activity`, or `audit`: about configuration, access and policy."""
    sentence: str
    """The description of an event that has none, with `{actor}` and `{entity}`."""
    sample: Event
    """A native event as a client sends it."""

    @property
    def noun(self) -> str:
        """The subject of an event without an entity type."""
        noun: str = self.sample["entity"]["type"]
        return noun.replace("_", " ")


# ---- actors and entities of the samples

_ANN = {"type": "user", "id": "user_board1", "name": "Ann"}
_BOB = {"type": "agent", "id": "agent_eng1", "name": "Bob", "on_behalf_of": "user_board1"}
_SYSTEM = {"type": "system", "id": "system"}
_POLICY = {"type": "policy-engine", "id": "policy-engine"}

_AGENT = {"type": "agent", "id": "agent_eng1", "name": "Bob"}
_API_KEY = {"type": "api_key", "id": "key_7c1d", "name": "ci"}
_APPROVAL = {"type": "approval", "id": "approval_9", "name": "Hire a reviewer"}
_COMMENT = {"type": "comment", "id": "comment_xyz"}
_COMPANY = {"type": "company", "id": "company_xyz", "name": "Acme"}
_CREDENTIAL = {"type": "credential", "id": "cred_4", "name": "github"}
_GOAL = {"type": "goal", "id": "goal_1", "name": "Ship 1.0"}
_HOST = {"type": "host", "id": "api.github.com"}
_ISSUE = {"type": "issue", "id": "issue_abc123", "identifier": "PAP-42", "name": "Implement user authentication"}
_KEY = {"type": "key", "id": "key_df7cb617e29bd62e", "name": "ci"}
_LABEL = {"type": "label", "id": "label_3", "name": "backend"}
_MEMBER = {"type": "member", "id": "user_sarah", "name": "Sarah"}
_PROJECT = {"type": "project", "id": "project_1", "name": "Login"}
_ROLE = {"type": "role", "id": "role_2", "name": "reviewer"}
_RUN = {"type": "run", "id": "run_abc123"}
_SECRET = {"type": "secret", "id": "secret_5", "name": "deploy"}
_TASK = {"type": "task", "id": "task_1", "name": "Analyse the logs"}
_USER = {"type": "user", "id": "user_sarah", "name": "Sarah"}
_WORKSPACE = {"type": "workspace", "id": "ws_1", "name": "Acme"}

_IDENTIFIER = {"identifier": "PAP-42"}


def _did(sentence: str, actor: Event, entity: Event, details: Event | None = None, /, **more: Any) -> tuple[str, Event]:
    """Return a sentence and its sample; a sample by an agent has its `agent_id`, like Paperclip's events."""
    agent = {"agent_id": actor["id"]} if actor is _BOB else {}
    return sentence, {"actor": actor, "entity": entity, **agent, **more, **({"details": details} if details else {})}


# ---- the table

_ACTIVITY = {
    # Companies
    "company.created": _did("{actor} created {entity}", _ANN, _COMPANY, {"name": "Acme"}),
    "company.updated": _did(
        "{actor} updated {entity}", _ANN, _COMPANY, {"name": "Acme", "_previous": {"name": "ACME"}}
    ),
    "company.archived": _did("{actor} archived {entity}", _ANN, _COMPANY),
    "company.imported": _did("{actor} imported {entity}", _ANN, _COMPANY, {"agents": 4, "projects": 2}),
    # Agents
    "agent.created": _did("{actor} created {entity}", _ANN, _AGENT, {"name": "Bob", "role": "engineer"}),
    "agent.hire_created": _did("{actor} asked to hire {entity}", _ANN, _AGENT, {"approvalId": "approval_9"}),
    "agent.updated": _did("{actor} updated {entity}", _ANN, _AGENT, {"title": "QA", "_previous": {"title": None}}),
    "agent.paused": _did("{actor} paused {entity}", _ANN, _AGENT, {"reason": "holidays"}),
    "agent.resumed": _did("{actor} resumed {entity}", _ANN, _AGENT),
    "agent.terminated": _did("{actor} terminated {entity}", _ANN, _AGENT),
    "agent.deleted": _did("{actor} deleted {entity}", _ANN, _AGENT),
    "agent.budget_limit_reached": _did(
        "{entity} reached its budget limit",
        _SYSTEM,
        _AGENT,
        {"budgetMonthlyCents": 25000, "spentMonthlyCents": 25100, "utilizationPercent": 100.4},
    ),
    "agent.runtime_session_reset": _did("{actor} reset the session of {entity}", _ANN, _AGENT),
    # Issues
    "issue.created": _did(
        "{actor} created {entity}", _BOB, _ISSUE, {"title": "Implement user authentication", **_IDENTIFIER}
    ),
    "issue.updated": _did(
        "{actor} updated {entity}",
        _BOB,
        _ISSUE,
        {"status": "in_progress", **_IDENTIFIER, "_previous": {"status": "todo"}},
        run_id="run_abc123",
    ),
    "issue.deleted": _did("{actor} deleted {entity}", _ANN, _ISSUE, _IDENTIFIER),
    "issue.assigned": _did("{actor} assigned {entity}", _ANN, _ISSUE, {"assignee": "john"}),
    "issue.checked_out": _did(
        "{actor} checked out {entity}", _BOB, _ISSUE, {"agentId": "agent_eng1"}, run_id="run_abc123"
    ),
    "issue.released": _did("{actor} released {entity}", _BOB, _ISSUE, run_id="run_abc123"),
    "issue.checkout_lock_adopted": _did(
        "{actor} took over the checkout of {entity}", _BOB, _ISSUE, {"previousRunId": "run_9"}, run_id="run_abc123"
    ),
    "issue.comment_added": _did(
        "{actor} commented on {entity}",
        _BOB,
        _ISSUE,
        {
            "commentId": "comment_xyz",
            "bodySnippet": "Started working on JWT implementation...",
            **_IDENTIFIER,
            "issueTitle": "Implement user authentication",
        },
        run_id="run_abc123",
    ),
    "issue.attachment_added": _did("{actor} attached a file to {entity}", _ANN, _ISSUE, {"filename": "screen.png"}),
    "issue.attachment_removed": _did("{actor} removed a file from {entity}", _ANN, _ISSUE, {"filename": "screen.png"}),
    "issue.approval_linked": _did("{actor} linked an approval to {entity}", _ANN, _ISSUE, {"approvalId": "approval_9"}),
    "issue.approval_unlinked": _did(
        "{actor} unlinked an approval from {entity}", _ANN, _ISSUE, {"approvalId": "approval_9"}
    ),
    "issue.agent_assigned": _did("{actor} assigned an agent to {entity}", _ANN, _ISSUE, {"agentId": "agent_eng1"}),
    "issue.agent_completed": _did("{actor} completed its work on {entity}", _BOB, _ISSUE, {"result": "analysed"}),
    "issue.agent_failed": _did("{actor} failed to process {entity}", _BOB, _ISSUE, {"error": "timed out"}),
    # Comments, labels, projects, goals, people
    "comment.deleted": _did("{actor} deleted {entity}", _ANN, _COMMENT, {"issueId": "issue_abc123"}),
    "label.created": _did("{actor} created {entity}", _ANN, _LABEL, {"name": "backend", "color": "#10B981"}),
    "label.deleted": _did("{actor} deleted {entity}", _ANN, _LABEL),
    "project.created": _did("{actor} created {entity}", _ANN, _PROJECT, {"name": "Login"}),
    "project.updated": _did(
        "{actor} updated {entity}", _ANN, _PROJECT, {"status": "active", "_previous": {"status": "planned"}}
    ),
    "project.deleted": _did("{actor} deleted {entity}", _ANN, _PROJECT),
    "project.workspace_created": _did("{actor} created a workspace of {entity}", _ANN, _PROJECT, {"name": "main"}),
    "project.workspace_updated": _did("{actor} updated a workspace of {entity}", _ANN, _PROJECT, {"name": "main"}),
    "project.workspace_deleted": _did("{actor} deleted a workspace of {entity}", _ANN, _PROJECT, {"name": "main"}),
    "goal.created": _did("{actor} created {entity}", _ANN, _GOAL, {"title": "Ship 1.0"}),
    "goal.updated": _did("{actor} updated {entity}", _ANN, _GOAL, {"status": "done", "_previous": {"status": "open"}}),
    "goal.deleted": _did("{actor} deleted {entity}", _ANN, _GOAL),
    "user.updated": _did("{actor} updated {entity}", _ANN, _USER, {"name": "Sarah", "_previous": {"name": "sarah"}}),
    # Approvals, costs, what people do by hand
    "approval.created": _did("{actor} asked for {entity}", _BOB, _APPROVAL, {"type": "hire_agent"}),
    "approval.approved": _did("{actor} approved {entity}", _ANN, _APPROVAL),
    "approval.rejected": _did("{actor} rejected {entity}", _ANN, _APPROVAL, {"note": "not this month"}),
    "approval.revision_requested": _did(
        "{actor} asked for a revision of {entity}", _ANN, _APPROVAL, {"note": "a smaller budget, please"}
    ),
    "approval.resubmitted": _did("{actor} resubmitted {entity}", _BOB, _APPROVAL),
    "approval.comment_added": _did("{actor} commented on {entity}", _ANN, _APPROVAL, {"commentId": "comment_xyz"}),
    "approval.requester_wakeup_queued": _did(
        "{actor} queued a wake-up for the requester of {entity}", _SYSTEM, _APPROVAL, {"agentId": "agent_eng1"}
    ),
    "approval.requester_wakeup_failed": _did(
        "{actor} could not wake the requester of {entity}", _SYSTEM, _APPROVAL, {"agentId": "agent_eng1"}
    ),
    "cost.reported": _did(
        "{actor} reported a cost for {entity}", _BOB, _AGENT, {"costCents": 42, "model": "large-1"}, run_id="run_abc123"
    ),
    "manual.intervention": _did(
        "{actor} intervened at {entity}", _ANN, _AGENT, {"reason": "Agent was stuck, manually reset session"}
    ),
    # Runs
    "heartbeat.invoked": _did("{actor} started a run", _ANN, _AGENT, {"source": "on_demand"}, run_id="run_abc123"),
    "heartbeat.cancelled": _did("{actor} cancelled a run", _ANN, _AGENT, run_id="run_abc123"),
    "run.queued": _did("{actor} queued {entity}", _ANN, _RUN, agent_id="agent_eng1", run_id="run_abc123"),
    "run.started": _did("{actor} started {entity}", _BOB, _RUN, run_id="run_abc123"),
    "run.succeeded": _did("{actor} finished {entity}", _BOB, _RUN, {"exitCode": 0}, run_id="run_abc123"),
    "run.failed": _did("{actor} failed in {entity}", _BOB, _RUN, {"exitCode": 1}, run_id="run_abc123"),
    "run.cancelled": _did("{actor} cancelled {entity}", _ANN, _RUN, agent_id="agent_eng1", run_id="run_abc123"),
    "run.timed_out": _did("{actor} ran out of time in {entity}", _BOB, _RUN, run_id="run_abc123"),
    # Evershell's tasks, sessions and workspaces
    "task_submitted": _did("{actor} submitted {entity}", _ANN, _TASK, {"agent_role": "analyst"}, task_id="task_1"),
    "task_delivered": _did("{actor} delivered {entity}", _SYSTEM, _TASK, task_id="task_1"),
    "task_delivery_failed": _did(
        "{actor} could not deliver {entity}", _SYSTEM, _TASK, {"reason": "the workspace has stopped"}, task_id="task_1"
    ),
    "task_running": _did("{actor} is working on {entity}", _BOB, _TASK, task_id="task_1"),
    "task_completed": _did("{actor} completed {entity}", _BOB, _TASK, task_id="task_1"),
    "task_failed": _did("{actor} failed at {entity}", _BOB, _TASK, {"reason": "no such file"}, task_id="task_1"),
    "task_cancelled": _did("{actor} cancelled {entity}", _ANN, _TASK, task_id="task_1"),
    "session_started": _did("{actor} started a session in {entity}", _BOB, _WORKSPACE, {"agent_provider": "example"}),
    "session_reset": _did("{actor} reset the session in {entity}", _BOB, _WORKSPACE),
    "iteration_started": _did(
        "{actor} started an iteration of {entity}", _BOB, _TASK, {"iteration": 3}, task_id="task_1"
    ),
    "iteration_completed": _did(
        "{actor} completed an iteration of {entity}", _BOB, _TASK, {"iteration": 3}, task_id="task_1"
    ),
    "compaction_started": _did("{actor} started a compaction in {entity}", _BOB, _TASK, task_id="task_1"),
    "compaction_completed": _did("{actor} completed a compaction in {entity}", _BOB, _TASK, task_id="task_1"),
    "workspace_created": _did("{actor} created {entity}", _ANN, _WORKSPACE),
    "workspace_idle": _did("{actor} found {entity} idle", _SYSTEM, _WORKSPACE),
    "workspace_busy": _did("{actor} found {entity} busy", _SYSTEM, _WORKSPACE),
    "workspace_stopping": _did("{actor} is stopping {entity}", _SYSTEM, _WORKSPACE),
    "workspace_stopped": _did("{actor} stopped {entity}", _SYSTEM, _WORKSPACE),
    "workspace_failed": _did("{actor} could not run {entity}", _SYSTEM, _WORKSPACE, {"reason": "out of memory"}),
    "workspace_archived": _did("{actor} archived {entity}", _ANN, _WORKSPACE),
    "workspace_forked": _did("{actor} forked {entity}", _ANN, _WORKSPACE, {"fork": "ws_2"}),
    "snapshot_saved": _did("{actor} saved a snapshot of {entity}", _SYSTEM, _WORKSPACE, {"bytes": 1048576}),
    "snapshot_failed": _did(
        "{actor} could not save a snapshot of {entity}", _SYSTEM, _WORKSPACE, {"reason": "disk full"}
    ),
}

_AUDIT = {
    # Budgets, permissions and configuration
    "company.budget_updated": _did(
        "{actor} updated the budget of {entity}", _ANN, _COMPANY, {"budgetMonthlyCents": 90000}
    ),
    "agent.budget_updated": _did("{actor} updated the budget of {entity}", _ANN, _AGENT, {"budgetMonthlyCents": 25000}),
    "agent.key_created": _did("{actor} created a key for {entity}", _ANN, _AGENT, {"keyId": "key_1", "name": "laptop"}),
    "agent.permissions_updated": _did(
        "{actor} updated the permissions of {entity}", _ANN, _AGENT, {"canCreateAgents": True}
    ),
    "agent.instructions_path_updated": _did(
        "{actor} updated the instructions of {entity}", _ANN, _AGENT, {"path": "agents/bob.md"}
    ),
    "agent.config_rolled_back": _did(
        "{actor} rolled back the configuration of {entity}", _ANN, _AGENT, {"revisionId": "rev_3"}
    ),
    # Access to workspaces, and the server's records of it
    "workspace.created": _did("{actor} created {entity}", _ANN, _WORKSPACE, {"org_id": "default"}),
    "workspace.settings_updated": _did(
        "{actor} changed the settings of {entity}", _ANN, _WORKSPACE, changes={"name": {"from": "ACME", "to": "Acme"}}
    ),
    "workspace.deleted": _did("{actor} deleted {entity}", _ANN, _WORKSPACE, {"org_id": "default", "head": 1042}),
    "member.added": _did("{actor} added {entity}", _ANN, _MEMBER, {"role": "member"}),
    "member.removed": _did("{actor} removed {entity}", _ANN, _MEMBER, {"role": "member"}),
    "member.role_changed": _did(
        "{actor} changed the role of {entity}",
        _ANN,
        _MEMBER,
        {"role": "admin"},
        changes={"role": {"from": "member", "to": "admin"}},
    ),
    "key.created": _did("{actor} created {entity}", _ANN, _KEY, {"scopes": ["workspace:read"], "expires_at": None}),
    "key.revoked": _did("{actor} revoked {entity}", _ANN, _KEY, {"scopes": ["workspace:read"], "expires_at": None}),
    "audit.read": _did("{actor} read the audit events of {entity}", _ANN, _WORKSPACE),
    # Evershell's policy, roles, credentials and people
    "policy_decision": _did(
        "{actor} decided on a request to {entity}",
        _POLICY,
        _HOST,
        {
            "agent_role": "analyst",
            "destination": "api.github.com",
            "method": "GET",
            "path": "/repos/acme/login",
            "decision": "allow",
            "phase": "request_headers",
            "policy_type": "http",
            "latency_ms": 3,
            "debits": {"output_tokens": 12},
        },
        task_id="task_1",
    ),
    "role_created": _did("{actor} created {entity}", _ANN, _ROLE),
    "role_updated": _did("{actor} updated {entity}", _ANN, _ROLE),
    "role_deleted": _did("{actor} deleted {entity}", _ANN, _ROLE),
    "credential_created": _did("{actor} created {entity}", _ANN, _CREDENTIAL),
    "credential_rotated": _did("{actor} rotated {entity}", _ANN, _CREDENTIAL),
    "credential_deleted": _did("{actor} deleted {entity}", _ANN, _CREDENTIAL),
    "secret_created": _did("{actor} created {entity}", _ANN, _SECRET),
    "secret_updated": _did("{actor} updated {entity}", _ANN, _SECRET),
    "secret_deleted": _did("{actor} deleted {entity}", _ANN, _SECRET),
    "api_key_created": _did("{actor} created {entity}", _ANN, _API_KEY),
    "api_key_revoked": _did("{actor} revoked {entity}", _ANN, _API_KEY),
    "member_invited": _did("{actor} invited {entity}", _ANN, _MEMBER, {"role": "member"}),
    "member_removed": _did("{actor} removed {entity}", _ANN, _MEMBER),
}

ACTIONS: Final[Mapping[str, Action]] = {
    name: Action(category, sentence, {"action": name, **sample})
    for category, table in (("activity", _ACTIVITY), ("audit", _AUDIT))
    for name, (sentence, sample) in table.items()
}
