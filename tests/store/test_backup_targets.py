"""Backups are written to and read from regular files only, and never replace the server's own files."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.databases import sqlite_url
from tests.support.kill_points import Commands, killable_commands


@pytest.fixture(scope="module")
def all_commands() -> Iterator[Commands]:
    """Start the process that runs the commands."""
    with killable_commands() as run:
        yield run


@pytest.fixture
def commands(all_commands: Commands, tmp_path: Path) -> Commands:
    """Run commands on an empty database in `data`."""
    (tmp_path / "data").mkdir()
    sqlite_url(tmp_path / "data")
    return all_commands.at(tmp_path)


OWN = ("streamer.db", "streamer.db-wal", "streamer.db-shm", "streamer.db.lock", "streamer.lock", "admin.key")


def test_the_servers_own_files_are_refused(commands: Commands, tmp_path: Path) -> None:
    """A backup replaces none of the server's files under any name, and does not take the name of a missing one."""
    data = tmp_path / "data"
    for name in ("streamer.lock", "streamer.db.lock", "admin.key"):
        (data / name).write_text("own")
    (tmp_path / "linked").hardlink_to(data / "admin.key")
    before = {path.name: path.read_bytes() for path in data.iterdir()}
    for target in (*(f"data/{name}" for name in OWN), "data/../data/streamer.lock", "linked"):
        assert commands("backup", target, "--force") == 1, target
    (data / "streamer.lock").unlink()
    assert commands("backup", "data/streamer.lock") == 1
    before.pop("streamer.lock")
    assert {path.name: path.read_bytes() for path in data.iterdir()} == before
    assert "Traceback" not in commands.said


def test_what_is_no_file_is_not_replaced_or_read(commands: Commands, tmp_path: Path) -> None:
    """A pipe is refused at once as a target and stays. `--verify` and `restore` do not block on it."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    os.mkfifo(tmp_path / "copy.partial")
    for name in ("pipe", "link"):
        assert commands("backup", name, "--force") == 1
        assert commands("backup", "--verify", name) == 8
        assert commands("restore", name) == 8
    assert "pipe is not a regular file" in commands.said
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert (tmp_path / "link").is_symlink()
    assert commands("backup", "copy") == 0


def test_a_folder_is_made(commands: Commands, tmp_path: Path) -> None:
    """A TARGET that ends with / is a folder. The command creates it, and `--keep` counts its backups."""
    for _ in range(2):
        assert commands("backup", "mnt/backups/", "--keep", 1, "--force") == 0
        (backup,) = (tmp_path / "mnt" / "backups").iterdir()
        assert commands("backup", "--verify", backup) == 0
    assert commands("backup", "mnt/none", "--keep", 1) == 2
