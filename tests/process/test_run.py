"""`./run`: what it sets up, when and where. A fake uv replaces the network; the slow tier uses pip itself."""

import os
import shutil
import subprocess
import sys
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from streamer import __version__
from tests.support.tools import ROOT

SECOND_START_SECONDS = 2

# Records its calls and "installs" the packages of the environment that runs these tests.
FAKE_UV = """#!/bin/sh
[ "$1" = pip ] || exit 1
echo "$@" >>"$UV_CALLS"
[ ! -e "$UV_CALLS.fail" ] || { touch "$PWD/.venv/half-a-package"; exit 1; }
while [ "$1" != --python ]; do shift; done
for site in "${2%/bin/python}"/lib/python3.*/site-packages; do echo "$PACKAGES" >"$site/packages.pth"; done
"""


FAKE_NPM = """#!/bin/sh
echo "$@" >>"$UV_CALLS.npm"
mkdir -p node_modules
"""


@dataclass
class Checkout:
    """A copy of the project, in a folder whose name has a space, on a machine with Python, uv and an empty home."""

    folder: Path
    home: Path
    programs: Path
    calls: Path

    def command(self, *arguments: str) -> tuple[list[str], dict[str, str]]:
        """Return the command that starts the copy, and its environment."""
        environment = {
            "PATH": f"{self.programs}:/usr/bin:/bin",
            "HOME": str(self.home),
            "UV_CALLS": str(self.calls),
            "PACKAGES": sysconfig.get_path("purelib"),
        }
        return [str(self.folder / "run"), *arguments], environment

    def run(self, *arguments: str, cwd: Path | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Start the copy and wait until it exits."""
        command, environment = self.command(*arguments)
        return subprocess.run(command, env=environment, cwd=cwd, check=check, capture_output=True, text=True)

    def installs(self) -> list[str]:
        """Return the calls of uv."""
        return self.calls.read_text().splitlines() if self.calls.exists() else []


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """Create a fresh copy of the project."""
    made = Checkout(tmp_path / "a folder" / "streamer", tmp_path / "home", tmp_path / "programs", tmp_path / "uv calls")
    made.home.mkdir()
    made.programs.mkdir()
    made.folder.mkdir(parents=True)
    for name in ("run", "requirements.lock"):
        shutil.copy2(ROOT / name, made.folder)
    for name in ("streamer", "bench"):
        shutil.copytree(ROOT / name, made.folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (made.programs / "python3").symlink_to(os.path.realpath(sys.executable))
    # Like the shims of version managers: names that only print an error.
    for name in ("python3.13", "python3.12", "python3.11"):
        _program(made.programs / name, "#!/bin/sh\necho 'not installed' >&2\nexit 127\n")
    _program(made.programs / "uv", FAKE_UV)
    return made


def _program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def test_first_start_sets_up_and_second_does_not(checkout: Checkout, tmp_path: Path) -> None:
    """The first start creates .venv from the hashed lock file and writes nothing outside the folder. The second only starts."""
    first = checkout.run("--version", cwd=tmp_path)
    assert first.stdout == f"streamer, version {__version__}\n"
    assert "Setting up (once)" in first.stderr
    (call,) = checkout.installs()
    assert "--require-hashes" in call
    assert list(checkout.home.iterdir()) == []
    began = time.monotonic()
    second = checkout.run("--version", cwd=tmp_path)
    assert time.monotonic() - began < SECOND_START_SECONDS
    assert second.stdout == first.stdout
    assert second.stderr == ""
    assert len(checkout.installs()) == 1


def test_measurements_are_started_too(checkout: Checkout, tmp_path: Path) -> None:
    """`./run bench` starts the package next to the server's, and the server has no such command."""
    assert checkout.run("bench", "--help", cwd=tmp_path).stdout.startswith("Usage: ./run bench ")
    assert checkout.run("--help").stdout.count("bench") == checkout.run("--help").stdout.count("./run bench") > 0


def test_starts_from_anywhere(checkout: Checkout, tmp_path: Path) -> None:
    """It works through a symbolic link, keeps the caller's directory, and imports no modules from there."""
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    (elsewhere / "streamer.py").write_text("raise SystemExit('the wrong module')")
    link = elsewhere / "link"
    link.symlink_to(os.path.relpath(checkout.folder / "run", elsewhere))
    _, environment = checkout.command()
    subprocess.run([link, "migrate"], env=environment, cwd=elsewhere, check=True, capture_output=True)
    assert (elsewhere / "data").is_dir()


def test_folder_may_be_moved(checkout: Checkout) -> None:
    """After the folder is moved, it starts without a new set-up."""
    checkout.run("--version")
    checkout.folder = checkout.folder.rename(checkout.folder.parent / "moved")
    assert checkout.run("--version").stderr == ""
    assert len(checkout.installs()) == 1


def test_changed_lock_is_installed(checkout: Checkout) -> None:
    """A changed lock file is installed at the next start."""
    checkout.run("--version")
    with (checkout.folder / "requirements.lock").open("a") as lock:
        lock.write("# changed\n")
    assert "Setting up (once)" in checkout.run("--version").stderr
    assert len(checkout.installs()) == 2


def test_npm_packages_follow_their_lock(checkout: Checkout) -> None:
    """`./run test` installs the tests' npm packages once, and again when their lock file changes."""
    _program(checkout.programs / "npm", FAKE_NPM)
    shutil.copy2(ROOT / "requirements-dev.lock", checkout.folder)
    lock = checkout.folder / "tests" / "node" / "package-lock.json"
    lock.parent.mkdir(parents=True)
    lock.write_text("{}")
    calls = Path(f"{checkout.calls}.npm")
    for text, count in (("{}", 1), ("{}", 1), ('{"changed": true}', 2), ('{"changed": true}', 2)):
        lock.write_text(text)
        assert "pytest" in checkout.run("test", "--version").stdout
        assert [call.split()[0] for call in calls.read_text().splitlines()] == ["ci"] * count


def test_broken_set_up_begins_anew(checkout: Checkout) -> None:
    """The next start removes an incomplete set-up and repeats it."""
    fail = Path(f"{checkout.calls}.fail")
    fail.touch()
    # Without pip, so that a failure of uv is final.
    (checkout.programs / "python3").unlink()
    without_pip = "import sys; sys.modules['pip'] = sys.modules['ensurepip'] = None"
    _program(
        checkout.programs / "python3",
        f"#!/bin/sh\n"
        f'[ "$1" = -c ] || exec "{os.path.realpath(sys.executable)}" "$@"\n'
        f'exec "{os.path.realpath(sys.executable)}" -c "{without_pip}\n$2"\n',
    )
    failed = checkout.run("--version", check=False)
    assert failed.returncode == 1
    assert "Next:" in failed.stderr
    assert (checkout.folder / ".venv/half-a-package").exists()
    fail.unlink()
    assert checkout.run("--version").stdout == f"streamer, version {__version__}\n"
    assert not (checkout.folder / ".venv/half-a-package").exists()


def test_two_first_starts_at_once(checkout: Checkout) -> None:
    """Of two concurrent first starts, one sets up and the other waits."""
    command, environment = checkout.command("--version")
    both = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for _ in range(2)
    ]
    assert [process.communicate()[0] for process in both] == [f"streamer, version {__version__}\n"] * 2
    assert len(checkout.installs()) == 1


def test_says_what_is_missing(checkout: Checkout) -> None:
    """Without a recent Python, it prints the version it found and what to install."""
    (checkout.programs / "uv").unlink()
    (checkout.programs / "python3").unlink()
    _program(
        checkout.programs / "python3", "#!/bin/sh\nprintf '/usr/bin/python3\\n/usr/bin/python3\\n3.9.2\\nold\\n'\n"
    )
    failed = checkout.run("--version", check=False)
    assert failed.returncode == 1
    assert "python3 is Python 3.9.2: too old" in failed.stderr
    assert "apt install" in failed.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_first_start_with_pip(checkout: Checkout) -> None:
    """With only Python and pip, the packages of the lock file are installed and the server's commands work."""
    (checkout.programs / "uv").unlink()
    command, environment = checkout.command("--version")
    pip = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "HTTP", "http"))}
    done = subprocess.run(command, env=environment | pip, check=True, capture_output=True, text=True)
    assert done.stdout == f"streamer, version {__version__}\n"
    assert list(checkout.home.iterdir()) == []
