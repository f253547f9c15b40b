"""The whole command line is documented."""

import click
import pytest

from tests.support.cli import commands
from tests.support.tools import ROOT


@pytest.mark.parametrize(("name", "command"), [*commands()])
def test_every_command_and_option_is_documented(name: str, command: click.Command) -> None:
    """docs/cli.md names each command and option. The options of `serve` are settings and documented elsewhere."""
    text = (ROOT / "docs" / "cli.md").read_text()
    assert f"`{name}`" in text
    options = [option for parameter in command.params for option in parameter.opts if option.startswith("-")]
    missing = [option for option in options if f"`{option}" not in text]
    assert name == "serve" or not missing
