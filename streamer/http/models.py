"""Checks what clients send against pydantic models: the parameters of a query, and JSON bodies.

What is wrong is one `BadInput` with a fault for each wrong field, in pydantic's form. The native API answers with its `fields`; a dialect
renders the faults in the form of its own server.
"""

from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Literal, NamedTuple, Self, TypeVar, get_origin
from urllib.parse import unquote, unquote_to_bytes

from pydantic import AliasChoices, BaseModel, ConfigDict, TypeAdapter, ValidationInfo
from pydantic import ValidationError as PydanticError
from pydantic_core import ErrorDetails

from streamer.core.errors import StreamerError, ValidationError
from streamer.core.quoting import MAX_NAMED

EMPTY = "is empty: leave the parameter out"
"""What is wrong with an empty value. Only where a stream resumes, empty is absent, as it is in `Last-Event-ID`."""
NO_NUL = r"^[^\u0000]*$"
"""The pattern of a text that the database can hold."""
REPEATED = "repeated"
"""The type of the fault of a parameter that may stand only once."""
UNKNOWN = "extra_forbidden"
"""The type of the fault of a parameter or field that the model does not have."""

_MESSAGES: Mapping[str, str] = {
    UNKNOWN: "unknown {what}",
    REPEATED: "given more than once",
    "missing": "required",
    "dict_type": "must be an object",
    "list_type": "must be a list",
    "string_type": "must be a text",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "must have the form {pattern}",
    "too_short": "must not be empty",
    "too_long": "must have at most {max_length} items",
    "literal_error": "must be {expected}",
}
"""By pydantic's types of errors, whose values stand in braces. What has a minimum length must not be empty, no more."""


class Params(BaseModel):
    """The parameters of an operation. A parameter that is a tuple may be repeated, all others stand once."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    repeats: ClassVar[Literal["refused", "last"]] = "refused"
    """What a repeated parameter means that stands once: it is an error, or its last value counts."""

    @classmethod
    def check_together(cls, given: Mapping[str, Any]) -> None:
        """Check what concerns several parameters, where one of the others was found wrong. Raises ValidationError."""


class NoParams(Params):
    """For operations that have no parameters."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The settings that bound parameters: pydantic's context while a query is read."""

    page_events: int
    wait_seconds: int

    @classmethod
    def of(cls, info: ValidationInfo) -> Self:
        """Return the bounds of the query that is being read."""
        if not isinstance(info.context, cls):
            raise TypeError("these parameters are read with bounds")
        return info.context


class BadInput(ValidationError):
    """What a client sent does not fit the model."""

    faults: Sequence[ErrorDetails]
    """What is wrong, as pydantic describes it; at most `MAX_NAMED`."""

    def __init__(
        self, faults: Sequence[ErrorDetails], *, prefix: str = "", what: str = "field", total: int = 0
    ) -> None:
        """Make the error; `prefix` stands before the path of each field, `what` names an unknown one, `total` counts those left out."""
        self.faults = faults[:MAX_NAMED]
        fields = {path(each["loc"], prefix): message(each, what) for each in self.faults}
        super().__init__(fields, total=max(total, len(faults)))


MAX_WIDTH = 32
"""Fields of an object whose fields have fixed names; none has as many."""

ParamsT = TypeVar("ParamsT", bound=Params)
Body = TypeVar("Body")


def fault(name: str, text: str, value: object = "", kind: str = "value_error") -> ErrorDetails:
    """Describe what is wrong with a field in pydantic's form."""
    return {"type": kind, "loc": (name,), "msg": text, "input": value}


def message(described: ErrorDetails, what: str = "field") -> str:
    """Return what the native API says of a fault."""
    form, context = _MESSAGES.get(described["type"]), described.get("ctx", {})
    if context.get("pattern") == NO_NUL:
        return "must not hold the character U+0000"
    if form is not None:
        return form.format_map({**context, "what": what})
    return described["msg"].removeprefix("Value error, ").removeprefix("Input ")


def path(location: Sequence[int | str], prefix: str = "") -> str:
    """Write where a fault is, such as `events[3].actor.type`."""
    found = prefix
    for part in location:
        found += f"[{part}]" if isinstance(part, int) else f".{part}" if found else part
    return found if location or prefix else "body"


class _Known(NamedTuple):
    name: str
    is_list: bool


@cache
def _known(model: type[Params]) -> Mapping[str, _Known]:
    """Return a model's parameters by each of their names; the first name of a parameter stands for all of them."""
    found: dict[str, _Known] = {}
    for name, field in model.model_fields.items():
        alias = field.validation_alias or name
        choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
        known = _Known(str(choices[0]), get_origin(field.annotation) is tuple)
        found |= dict.fromkeys(map(str, choices), known)
    return found


def names_of(model: type[Params]) -> tuple[str, ...]:
    """Return the names of a model's parameters."""
    return tuple(dict.fromkeys(known.name for known in _known(model).values()))


def _faults(error: ValidationError, given: Mapping[str, Any]) -> list[ErrorDetails]:
    if isinstance(error, BadInput):
        return [*error.faults]
    return [fault(name, text, given.get(name, "")) for name, text in error.fields.items()]


def check_encoding(raw_query: str) -> None:
    """Require that a query's percent-encoding is UTF-8 (RFC 3986, section 2.5). Raises BadInput."""
    if "%" in raw_query:
        for part in raw_query.split("&"):
            try:
                unquote_to_bytes(part).decode()
            except UnicodeDecodeError:
                name = unquote(part.partition("=")[0])
                raise BadInput([fault(name, "must be percent-encoded UTF-8")], what="parameter") from None


def read_query(model: type[ParamsT], query: Mapping[str, str], bounds: Bounds | None = None) -> ParamsT:
    """Read the parameters of a query.

    Raises:
        BadInput: they do not fit the model. The faults of its fields come first, then what is repeated, then what is unknown.
        StreamerError: what the model raises.
    """
    known = _known(model)
    given: dict[str, Any] = {}
    repeated: dict[str, ErrorDetails] = {}
    unknown: dict[str, str] = {}
    for name, value in query.items():
        parameter = known.get(name)
        if parameter is None:
            unknown[name] = value
        elif parameter.is_list:
            given.setdefault(parameter.name, []).append(value)
        elif parameter.name in given and model.repeats == "refused":
            repeated.setdefault(parameter.name, fault(name, "given more than once", value, REPEATED))
        else:
            given[parameter.name] = value
    for name in repeated:
        del given[name]
    if model.model_config.get("extra") == "ignore":
        unknown = {}
    faults: list[ErrorDetails] = []
    found = None
    try:
        found = model.model_validate(given, context=bounds)
    except PydanticError as error:
        faults = _described(error)
        try:
            model.check_together(given)
        except ValidationError as other:
            faults += _faults(other, given)
    except ValidationError as error:
        faults = _faults(error, given)
    except StreamerError:
        if not repeated and not unknown:
            raise
    total = len(faults) + len(repeated) + len(unknown)
    if found is None or total:
        extra = [
            fault(name, "Extra inputs are not permitted", unknown[name], UNKNOWN) for name in [*unknown][:MAX_NAMED]
        ]
        raise BadInput([*faults, *repeated.values(), *extra], what="parameter", total=total)
    return found


def check(
    adapter: TypeAdapter[Body], value: object, *, prefix: str = "", what: str = "field", is_open: bool = False
) -> Body:
    """Check a parsed body.

    Args:
        adapter: the model.
        value: the body.
        prefix: stands before the paths of wrong fields.
        what: what errors call an unknown field.
        is_open: unknown fields are dropped, however many they are.

    Raises: ValidationError.
    """
    if not is_open:
        _check_width(value, prefix)
    try:
        return adapter.validate_python(value)
    except PydanticError as error:
        raise BadInput(_described(error), prefix=prefix, what=what) from None


def _described(error: PydanticError) -> list[ErrorDetails]:
    """Return an error's faults without tracebacks, which lead back to the caller's frame: together they would be a cycle."""
    faults = error.errors(include_url=False)
    for described in faults:
        cause = described.get("ctx", {}).get("error")
        if isinstance(cause, BaseException):
            cause.__traceback__ = None
    return faults


def _check_width(value: object, where: str) -> None:
    """Require that an object with fixed names has few others: naming each of them would take longer than everything else.

    Raises: ValidationError.
    """
    if not isinstance(value, dict):
        return
    changes = value.get("changes")
    for name, part in (("", value), ("actor", value.get("actor")), ("entity", value.get("entity"))):
        if isinstance(part, dict) and len(part) > MAX_WIDTH:
            raise _too_wide(part, where, name)
    for name, change in changes.items() if isinstance(changes, dict) else ():
        if isinstance(change, dict) and len(change) > MAX_WIDTH:
            raise _too_wide(change, where, f"changes.{name}")


def _too_wide(part: Sized, *path: str) -> ValidationError:
    return ValidationError(
        {".".join(filter(None, path)) or "body": f"{len(part)} fields; it has no more than {MAX_WIDTH}"}
    )
