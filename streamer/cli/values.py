"""Checks of options and arguments that click's own types do not make."""

import math
from typing import Any

import click


class Number(click.FloatRange):
    """A number within bounds; `nan` is rejected."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number."""
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return float(number)


def not_empty(_context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Reject an empty text, as shells produce from an unset variable."""
    if value is not None and not value.strip():
        raise click.UsageError(
            f"{parameter.opts[0] if isinstance(parameter, click.Option) else parameter.human_readable_name} is empty"
        )
    return value


workspace_argument = click.argument("workspace", callback=not_empty)
