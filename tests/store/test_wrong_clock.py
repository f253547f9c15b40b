"""After an append with a clock that ran ahead, the log stays exact and operators are informed."""

import json

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text

from streamer.store.engine.database import Database
from tests.support.api import Api, events

WS = "w"
YEAR = 365 * 86_400
METRIC = "streamer_log_ahead_seconds"


async def ahead(api: Api) -> float:
    """Return the value of the metric."""
    families = text_string_to_metric_families((await api.get("/metrics")).body.decode())
    return next(sample.value for family in families for sample in family.samples if sample.name == METRIC)


def warnings(output: str) -> list[dict[str, object]]:
    """Return the warnings about it in the log."""
    lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == "log_ahead_of_clock"]


async def test_a_log_ahead_of_the_clock_is_said(
    api: Api, database: Database, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each workspace far ahead of the clock gets one warning and sets a metric. A timestamp in `after` still works exactly."""
    for workspace in (WS, "fine"):
        (await api.append(workspace)).expect(201)
    assert await ahead(api) == 0
    later = text(f"UPDATE workspaces SET last_timestamp = last_timestamp + {YEAR * 1_000_000} WHERE id = '{WS}'")
    await database.write(lambda connection: connection.execute(later) and None)
    stored = [(await api.append(WS)).expect(201) for _ in range(3)]
    (await api.append("fine")).expect(201)
    assert YEAR - 600 < await ahead(api) <= YEAR
    logged = warnings(capfd.readouterr().err)
    assert [line["workspace"] for line in logged] == [WS]
    assert YEAR - 600 < float(str(logged[0]["seconds"])) <= YEAR
    page = (await api.get(events(WS), after=stored[0]["timestamp"])).expect(200)
    assert [event["id"] for event in page["events"]] == [event["id"] for event in stored[1:]]
