"""The house: documentation names everything there is, and the files that belong together agree."""

import json
import re
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import metadata, util
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from streamer.api.routes import ROUTES
from streamer.core.errors import StreamerError
from streamer.dialects import DIALECTS
from streamer.feed.reasons import Reason
from streamer.observe.metrics import Metrics
from streamer.settings import CLIENT_VARIABLES, PREFIX, Settings
from tests.support.cli import commands
from tests.support.tools import NODE_VERSION, ROOT, find

IGNORED = {
    ".git",
    ".venv",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
    ".hypothesis",
    "__pycache__",
    "data",
    "node_modules",
}


def _doc(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


@cache
def _pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def _files() -> list[Path]:
    """Return the project's own files: those git knows or would take, or all if this is not a checkout."""
    git = find("git")
    if git and (ROOT / ".git").exists():
        command = [
            str(git),
            "-c",
            f"safe.directory={ROOT}",
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ]
        names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
        paths = [ROOT / name for name in names.split("\0") if name]
    else:
        paths = [path for path in ROOT.rglob("*") if not IGNORED & set(path.relative_to(ROOT).parts)]
    return [path for path in paths if path.is_file()]


# ---- documentation


def test_settings_are_documented() -> None:
    """docs/settings.md names each variable that is read, and none that is not."""
    variables = {PREFIX + name.upper() for name in (*Settings.model_fields, *CLIENT_VARIABLES)}
    named = set(re.findall(rf"\b{PREFIX}[A-Z][A-Z_]*[A-Z]\b", _doc("settings.md")))
    assert named == variables


def test_limits_are_documented() -> None:
    """docs/limits.md is what docs/limits.py makes of the settings; each setting that is a number is there, unless it bounds nothing."""
    spec = util.spec_from_file_location("limits", ROOT / "docs" / "limits.py")
    assert spec is not None
    assert spec.loader is not None
    limits = util.module_from_spec(spec)
    spec.loader.exec_module(limits)
    assert _doc("limits.md") == limits.page(), "run: python docs/limits.py write"
    bounds_nothing = {
        "port",
        "flush_window_ms",
        "heartbeat_seconds",
        "poll_seconds",
        "jwt_leeway",
        "jwks_refresh_seconds",
    }
    for name, setting in Settings.model_fields.items():
        if setting.annotation in {int, float} and name not in bounds_nothing:
            assert f"`{PREFIX}{name.upper()}`" in _doc("limits.md"), name


@pytest.mark.parametrize("route", [route for route in ROUTES if route.documented], ids=lambda route: route.operation)
def test_routes_are_documented(route: Any) -> None:
    """docs/api.md has each route, written as `METHOD /path`."""
    assert f"{route.method} {route.path}" in _doc("api.md")


def test_metrics_are_documented() -> None:
    """docs/operations.md names each metric that is served, and none that is not."""
    named = set(re.findall(r"`(streamer_[a-z_]+)`", _doc("operations.md")))
    assert named == set(Metrics().names())


def test_errors_are_documented() -> None:
    """docs/errors.md has each code beside its status."""
    lines = _doc("errors.md").splitlines()
    for error in _subclasses(StreamerError):
        assert any(f"`{error.code}`" in line and str(error.status) in line for line in lines), error.code


def _subclasses(kind: type[StreamerError]) -> Iterator[type[StreamerError]]:
    yield kind
    for sub in kind.__subclasses__():
        yield from _subclasses(sub)


@pytest.mark.parametrize(("name", "command"), [*commands()])
def test_commands_are_documented(name: str, command: click.Command) -> None:
    """Each command explains itself by --help, and docs/cli.md has it with all its options."""
    assert command.help
    text = _doc("cli.md")
    assert re.search(rf"(?:streamer |\./run |`){name}\b", text)
    if name == "serve":  # its flags are the settings
        return
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert any(option in text for option in parameter.opts), f"{name} {parameter.opts[0]}"


@pytest.mark.parametrize("reason", Reason)
def test_reasons_are_documented(reason: Reason) -> None:
    """Each reason for an end stands in docs/api.md, with its close code and whether to come back."""
    (row,) = [line for line in _doc("api.md").splitlines() if line.startswith(f"| `{reason.word}` |")]
    _, _, code, come_back, _, _ = (cell.strip() for cell in row.split("|"))
    assert code == ("" if reason is Reason.UNSUBSCRIBED else str(reason.code))
    assert come_back == ("yes" if reason.reconnect else "no")


def test_links_lead_somewhere() -> None:
    """Relative links in the documentation point at files that exist, and at tests that exist."""
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        for target in re.findall(r"\]\((?!https?:|#)([^)\s]+?)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
    for file, name in re.findall(r"(tests/\w+\.py)::(\w+)", (ROOT / "README.md").read_text()):
        assert re.search(rf"def {name}\(", (ROOT / file).read_text()), f"README.md: {file}::{name}"


def test_the_table_of_tests_names_files() -> None:
    """Each file that tests/README.md names is there."""
    names = re.findall(r"`([\w/]+(?:\.py|/))`", (ROOT / "tests" / "README.md").read_text())
    assert len(names) > 20
    assert [name for name in names if not (ROOT / "tests" / name).exists()] == []


def test_promises_of_dialects_are_tested() -> None:
    """docs/dialects.md names a test beside each promise, and all of them exist; each route and each dialect has its place there."""
    text = _doc("dialects.md")
    named = 0
    for section in re.split(r"\n\n", text):
        head, *rows = section.strip().splitlines()
        if not head.startswith("| promise"):
            continue
        for row in rows[1:]:
            tests = re.findall(r"`(tests/test_\w+\.py)::(test_\w+)`", row.strip("|").split("|")[-1])
            assert tests, row
            for file, name in tests:
                assert re.search(rf"def {name}\(", (ROOT / file).read_text()), f"{file}::{name}"
            named += len(tests)
    assert named > 40
    for dialect in DIALECTS:
        assert f"`{dialect.name}`" in text
        for parameter in {name for route in dialect.operations for name in route.query}:
            assert f"`{parameter}`" in text or f"?{parameter}=" in text, parameter


def test_threats_are_covered() -> None:
    """Each threat of THREAT_MODEL.md says how it is met and names tests, which exist; or it says that it is not met, and why."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for section in (ROOT / "THREAT_MODEL.md").read_text().split("\n## ")
        if "| threat |" in section
        for line in section.splitlines()
        if line.startswith("| ") and not line.startswith("| threat |")
    ]
    assert len(rows) > 80
    for threat, answer, tests in rows:
        named = re.findall(r"`(tests/test_\w+\.py)::(test_\w+)`", tests)
        assert len(named) == tests.count("`") / 2, threat
        assert answer, threat
        assert named or answer.startswith("not met"), threat
        for file, name in named:
            assert re.search(rf"def {name}\(", (ROOT / file).read_text()), f"{threat}: {file}::{name}"


# ---- files


def test_no_machine_paths() -> None:
    """No file holds a path of the machine that it was written on."""
    pattern = re.compile(rb"(?<![\w.}/-])/(?:root|work|home/[a-z]\w*|Users/[A-Za-z]\w*)/[\w.]")
    for path in _files():
        found = pattern.search(path.read_bytes())
        assert found is None, f"{path.relative_to(ROOT)}: {found[0].decode()}"


def test_wheel_holds_page_and_migrations() -> None:
    """The wheel is built with the page's files, and with the migrations, which are a part of the package."""
    wheel = _pyproject()["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["packages"] == ["streamer"]
    assert wheel["force-include"] == {"static": "streamer/static"}
    assert not wheel.get("exclude")
    package = {path.relative_to(ROOT) for path in _files() if path.is_relative_to(ROOT / "streamer")}
    for path in (ROOT / "streamer" / "store" / "migrations").rglob("*.[pm][ya]*"):
        if "__pycache__" not in path.parts:
            assert path.relative_to(ROOT) in package  # hatchling leaves out what git ignores


# ---- lock files


def test_npm_lock_names_no_registry() -> None:
    """The npm packages of the tests are exact and hashed, wherever they are fetched from."""
    folder = ROOT / "tests" / "node"
    package = json.loads((folder / "package.json").read_text())
    locked = json.loads((folder / "package-lock.json").read_text())["packages"]
    assert locked.pop("")["dependencies"] == package["dependencies"]
    assert all("resolved" not in each and each["integrity"] for each in locked.values())
    for name, version in package["dependencies"].items():
        assert locked[f"node_modules/{name}"]["version"] == version, f"{name}: npm run lock in tests/node"
    for name, dropped in package["without"].items():
        assert not locked[f"node_modules/{name}"]["dependencies"].keys() & set(dropped), "npm run lock in tests/node"
    assert package["engines"]["node"] == ">=" + ".".join(map(str, NODE_VERSION))


class Locked(NamedTuple):
    """A line of a lock file."""

    requirement: Requirement
    hashes: int

    @property
    def version(self) -> str:
        """The only version that is allowed."""
        (specifier,) = self.requirement.specifier
        assert specifier.operator == "=="
        return specifier.version

    @property
    def applies(self) -> bool:
        """Whether it is installed here."""
        return self.requirement.marker is None or self.requirement.marker.evaluate()


def _lock(name: str) -> dict[str, Locked]:
    text = (ROOT / name).read_text().replace("\\\n", "")
    found: dict[str, Locked] = {}
    for line in text.splitlines():
        if line and not line.lstrip().startswith("#"):
            requirement, *hashes = line.split("--hash=")
            parsed = Requirement(requirement.strip())
            found[canonicalize_name(parsed.name)] = Locked(parsed, len(hashes))
    return found


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock"])
def test_lock_satisfies_pyproject(name: str) -> None:
    """Each requirement of pyproject.toml, and each of theirs, is locked at a version that it allows; else: `./run lock`."""
    lock = _lock(name)
    assert all(locked.hashes for locked in lock.values())
    wanted = list(_pyproject()["project"]["dependencies"])
    if name == "requirements-dev.lock":
        wanted += _pyproject()["dependency-groups"]["dev"]
    cut = {package["name"]: package["requires-dist"] for package in _pyproject()["tool"]["uv"]["dependency-metadata"]}
    todo = [Requirement(text) for text in wanted]
    seen = set()
    while todo:
        requirement = todo.pop()
        locked = lock.get(canonicalize_name(requirement.name))
        assert locked, f"{requirement} is not in {name}: ./run lock"
        assert requirement.specifier.contains(locked.version, prereleases=True), f"{requirement} but {locked.version}"
        if not locked.applies:
            continue
        for extra in ["", *requirement.extras]:
            if (requirement.name, extra) not in seen:
                seen.add((requirement.name, extra))
                needs = map(Requirement, cut.get(requirement.name, metadata.requires(requirement.name)) or [])
                todo += [need for need in needs if need.marker is None or need.marker.evaluate({"extra": extra})]


def test_locks_agree() -> None:
    """What the server runs with is what the tests run with, and it is installed here."""
    dev = _lock("requirements-dev.lock")
    for name, locked in _lock("requirements.lock").items():
        assert dev[name].requirement == locked.requirement
    for name, locked in dev.items():
        if locked.applies:
            assert metadata.version(name) == locked.version, name
