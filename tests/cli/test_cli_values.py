"""Invalid values exit with code 2 and the name of the option, before any request is sent."""

import pytest
from click.testing import CliRunner

from streamer.cli import main


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tail", ""], "WORKSPACE is empty"),
        (["publish", " "], "WORKSPACE is empty"),
        (["keys", "list", ""], "WORKSPACE is empty"),
        (["members", "list", ""], "WORKSPACE is empty"),
        (["members", "remove", "w", ""], "USER is empty"),
        (["tail", "w", "--since", ""], "--since is empty"),
        (["tail", "w", "--until", ""], "--until is empty"),
        (["tail", "w", "--max-wait", "nan"], "'nan' is not a number"),
        (["whoami", "--max-wait", "NaN"], "'NaN' is not a number"),
        (["demo", "--rate", "nan"], "'nan' is not a number"),
    ],
)
def test_is_refused(arguments: list[str], said: str) -> None:
    """Each invalid value is refused by name."""
    result = CliRunner(env={"STREAMER_URL": "http://127.0.0.1:9"}).invoke(main, arguments)
    assert result.exit_code == 2, result.output
    assert said in result.output
