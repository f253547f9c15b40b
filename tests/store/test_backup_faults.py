"""Backups that are damaged, interrupted, out of disk space, too new, or restored by hand next to an old log."""

# ruff: noqa: ASYNC240 - a few small files

import fcntl
import os
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from alembic import command
from sqlalchemy import create_engine

from streamer.store import migrate as migrations
from streamer.store.engine.database import Database
from streamer.store.migrate import HEAD
from tests.conftest import ADMIN_KEY, MakeProcess
from tests.support.api import Api, events
from tests.support.cli import Cli
from tests.support.databases import Cluster, run_sql, sqlite_url
from tests.support.kill_points import KILLED, Commands, killable_commands

WS = "w"
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


@pytest.fixture(scope="module")
def all_commands() -> Iterator[Commands]:
    """Start the process that runs the commands."""
    with killable_commands() as run:
        yield run


@pytest.fixture
def commands(all_commands: Commands, tmp_path: Path) -> Iterator[Commands]:
    """Run commands on an empty `streamer.db` in the test's folder. None of them may end with a traceback."""
    run = all_commands.at(tmp_path, STREAMER_DATABASE_URL=sqlite_url(tmp_path))
    yield run
    assert "Traceback" not in run.said


def opened(file: Path) -> sqlite3.Connection:
    """Open an SQLite file as a server does."""
    connection = sqlite3.connect(file, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    return connection


def put_events(connection: sqlite3.Connection, count: int, size: int = 100) -> None:
    """Store events with the next seqs of one log, one transaction each."""
    known = "id, epoch, head, earliest, last_timestamp, org_id, settings, created_at, created_by"
    connection.execute(
        f"INSERT OR IGNORE INTO workspaces ({known}) VALUES ('{WS}', 'old', 0, 1, 0, 'o', '{{}}', 1, 'ann')"
    )
    for _ in range(count):
        connection.execute("BEGIN")
        connection.execute("UPDATE workspaces SET head = head + 1")
        connection.execute(
            "INSERT INTO events (workspace, seq, timestamp, size, id, category, action, actor_type, actor_id, search, body)"
            " SELECT key, head, head, ?, 'e' || head, 'activity', 'a.b', 'user', 'ann', '', ? FROM workspaces",
            (size, "x" * size),
        )
        connection.execute("COMMIT")


def state(file: Path) -> tuple[Any, ...]:
    """Require that an SQLite file is intact. Return the log's head, its events, and whether its epoch is the old one."""
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        query = "SELECT head, (SELECT count(*) FROM events), epoch = 'old' FROM workspaces"
        return tuple(connection.execute(query).fetchone())


@pytest.fixture
def killed_server(tmp_path: Path) -> Path:
    """Create the files of a killed server: a backup of 5 events, `copy`, and a database of 8 with the last ones in its WAL."""
    folder = tmp_path / "killed"
    folder.mkdir()
    database = tmp_path / "streamer.db"
    with closing(opened(database)) as connection:
        put_events(connection, 5)
        with closing(sqlite3.connect(folder / "plain")) as plain:
            connection.backup(plain)
        put_events(connection, 3)
        for name in ("streamer.db", "streamer.db-wal", "streamer.db-shm"):
            shutil.copyfile(tmp_path / name, folder / name)
    return folder


def lay_out(folder: Path, target: Path) -> None:
    """Replace the current files with those of the killed server."""
    for path in target.glob("streamer.db*"):
        path.unlink()
    for path in folder.glob("streamer.db*"):
        shutil.copyfile(path, target / path.name)


# ---- damaged files


def test_damage_is_found(commands: Commands, tmp_path: Path) -> None:
    """Any changed byte, truncation or foreign file makes `--verify` and `restore` exit with code 8 and change nothing."""
    database, copy, wrong = tmp_path / "streamer.db", tmp_path / "copy", tmp_path / "wrong"
    with closing(opened(database)) as connection:
        put_events(connection, 5)
    assert commands("backup", copy) == 0
    assert commands("backup", "--verify", copy) == 0
    good = copy.read_bytes()
    manifest = good.rindex(b"\n{") + 10
    last = good.rindex(b"\nstreamer-backup") + 1
    places = [
        0,
        18,
        100,
        4096,
        len(good) // 2,
        manifest,
        last - 1,
        last,
        last + 17,
        last + 30,
        last + 50,
        len(good) - 1,
    ]
    damaged = {f"byte {place} flipped": good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :] for place in places}
    damaged |= {f"cut at {end}": good[:end] for end in (0, 1, 4096, last, len(good) - 1)}
    damaged |= {
        "a byte more": good + b"x",
        "a page less": good[4096:],
        "plain": database.read_bytes(),
        "text": b"hello\n",
    }
    before = database.read_bytes()
    for what, content in damaged.items():
        wrong.write_bytes(content)
        assert commands("backup", "--verify", wrong) == 8, what
    assert commands("restore", wrong, "--force") == 8
    assert commands("backup", "--verify", tmp_path / "nothing") == 1
    assert database.read_bytes() == before
    assert [path.name for path in tmp_path.glob("streamer.db?*")] == ["streamer.db.lock"]


def test_a_damaged_database_is_not_backed_up(commands: Commands, tmp_path: Path) -> None:
    """A log with a missing seq and a corrupt file are not backed up; `migrate --restored` refuses them, too."""
    database = tmp_path / "streamer.db"
    with closing(opened(database)) as connection:
        put_events(connection, 50, size=3000)
        connection.execute("DELETE FROM events WHERE seq = 7")
    assert commands("backup", "copy") == 1
    assert f"the log of {WS} should hold seq 1 to 50, but holds 49 events" in commands.said
    assert commands("migrate", "--restored") == 8
    assert state(database) == (50, 49, 1)
    with closing(opened(database)) as connection:
        connection.execute("UPDATE workspaces SET head = 6")
        connection.execute("DELETE FROM events WHERE seq > 6")
        (page,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'events_by_action'").fetchone()
    with database.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xff" * 100)
    assert commands("backup", "copy") == 1
    assert commands("migrate", "--restored") == 8
    assert not list(tmp_path.glob("copy*"))


# ---- killed commands


def test_a_backup_is_killed(commands: Commands, tmp_path: Path) -> None:
    """A backup that is killed at any time leaves no file or a complete one. The next backup removes the remains."""
    copy = tmp_path / "copy"
    with closing(opened(tmp_path / "streamer.db")) as connection:
        put_events(connection, 5)
    outcomes = []
    for moment in range(1, 100):
        copy.unlink(missing_ok=True)
        code = commands("backup", copy, kill_at=moment)
        outcomes.append((code, copy.exists()))
        if copy.exists():
            assert commands("backup", "--verify", copy) == 0
        if code == 0:
            break
        assert code == KILLED
    assert outcomes[-1] == (0, True)
    assert {(KILLED, False), (KILLED, True)} < set(outcomes)
    assert [path.name for path in tmp_path.glob("copy*")] == ["copy"]


def test_a_restore_is_killed(commands: Commands, killed_server: Path, tmp_path: Path) -> None:
    """A restore that is killed at any time leaves the old or the new database intact. Repeating the command completes it."""
    copy, database = tmp_path / "copy", tmp_path / "streamer.db"
    shutil.copyfile(killed_server / "plain", database)
    assert commands("backup", copy) == 0
    old, new, outcomes = (8, 8, 1), (5, 5, 0), []
    for moment in range(1, 200):
        lay_out(killed_server, tmp_path)
        code = commands("restore", copy, "--force", kill_at=moment)
        found = state(database)
        assert found in {old, new}, moment
        outcomes.append((code, found))
        if code == 0:
            break
        assert code == KILLED
        if found == new or moment % 5 == 0:
            assert commands("restore", copy, "--force") == 0
            assert state(database) == new
            kept = [state(path) for path in tmp_path.glob("*before-restore-*[0-9Z]")]
            assert old in kept
        assert not [path for path in tmp_path.glob("streamer.db.re*") if found == new]
    assert outcomes[-1] == (0, new)
    assert {(KILLED, old), (KILLED, new)} < set(outcomes)


def test_no_room(commands: Commands, tmp_path: Path) -> None:
    """If the disk fills up, the command fails and leaves no partial file, and the database is unchanged."""
    database, copy = tmp_path / "streamer.db", tmp_path / "copy"
    with closing(opened(database)) as connection:
        put_events(connection, 100, size=10_000)
    assert commands("backup", "copy", file_bytes=500_000) == 1
    assert not list(tmp_path.glob("copy*"))
    assert commands("backup", copy) == 0
    before = database.read_bytes()
    assert commands("restore", copy, "--force", file_bytes=500_000) == 1
    assert database.read_bytes() == before
    assert [path.name for path in tmp_path.glob("streamer.db?*")] == ["streamer.db.lock"]


# ---- restored by hand


@on_sqlite
async def test_the_log_of_another_database(
    make_process: MakeProcess, http: aiohttp.ClientSession, database_url: str, tmp_path: Path
) -> None:
    """If a copy replaces the file of a killed server, the old `-wal` does not undo the restore: it is refused and set aside."""
    process = make_process()
    await process.start()
    api = Api(http, process.url, ADMIN_KEY)
    file = tmp_path / "streamer.db"
    (await api.append_all(WS, [{}] * 5)).expect(201)
    with closing(sqlite3.connect(file)) as live, closing(sqlite3.connect(tmp_path / "copy")) as copy:
        live.backup(copy)
    (await api.append_all(WS, [{}] * 5)).expect(201)
    position = (await api.get(events(WS))).expect(200)["position"]
    process.kill()
    shutil.copyfile(tmp_path / "copy", file)
    here = Cli(tmp_path, {"STREAMER_DATABASE_URL": database_url})
    refused = await here("migrate", "--restored")
    assert (refused.code, "-wal is beside the database" in refused.err) == (1, True)
    done = await here("migrate", "--restored", "--wal", "discard")
    assert done.code == 0, done.err
    assert {path.name[-4:] for path in tmp_path.glob("streamer.db.discarded-*")} == {"-wal", "-shm"}
    await process.start()
    assert len(await api.history(WS)) == 5
    assert (await api.get(events(WS), after=position)).error == "position_expired"


def test_a_log_that_is_kept(commands: Commands, killed_server: Path, tmp_path: Path) -> None:
    """A `-wal` restored with its file is read. A `-wal` of another file is recognized by the damage it would do."""
    database = tmp_path / "streamer.db"
    lay_out(killed_server, tmp_path)
    assert commands("migrate", "--restored") == 1
    assert commands("migrate", "--restored", "--wal", "keep") == 0
    assert state(database) == (8, 8, 0)
    with closing(opened(database)) as connection:
        put_events(connection, 300, size=3000)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        put_events(connection, 300, size=3000)
        shutil.copyfile(tmp_path / "streamer.db-wal", tmp_path / "log")
    lay_out(killed_server, tmp_path)
    shutil.copyfile(killed_server / "plain", database)
    shutil.copyfile(tmp_path / "log", tmp_path / "streamer.db-wal")
    assert commands("migrate", "--restored", "--wal", "keep") == 8
    assert commands("migrate", "--wal", "keep") == 2
    database.unlink()
    (tmp_path / "streamer.db-wal").unlink()
    assert commands("migrate", "--restored") == 1
    assert not database.exists()


# ---- compatibility


def test_backups_of_other_versions(commands: Commands, tmp_path: Path) -> None:
    """Older backups are migrated. Newer backups and backups of another kind of database are refused."""
    database = tmp_path / "streamer.db"
    database.unlink()
    engine = create_engine(f"sqlite:///{database}")
    with engine.begin() as connection:
        command.upgrade(migrations._config(connection), "0006")
    engine.dispose()
    with closing(opened(database)) as plain:
        put_events(plain, 5)
    assert commands("backup", "older") == 0
    with closing(opened(database)) as plain:
        plain.execute("UPDATE alembic_version SET version_num = '9999'")
    assert commands("backup", "newer") == 0
    assert commands("restore", "newer", "--force") == 1
    assert "restore it with a newer version" in commands.said
    assert commands("restore", "older", "--force") == 0
    assert state(database) == (5, 5, 0)
    with closing(opened(database)) as plain:
        assert plain.execute("SELECT version_num FROM alembic_version").fetchall() == [(HEAD,)]
        assert plain.execute("SELECT count(*) FROM audit_counts").fetchall() == [(0,)]
    content = (tmp_path / "older").read_bytes()
    assert b'"database":"sqlite"' in content
    other = commands.at(tmp_path, STREAMER_DATABASE_URL="postgresql://ann:secret@127.0.0.1:1/none")
    assert other("restore", "older") == 1
    assert "older is a backup of sqlite, the database to restore is postgresql" in other.said


def test_the_newest_backups_are_kept(commands: Commands, tmp_path: Path) -> None:
    """`--keep` removes older backups of the folder by name and the remains of killed backups, and nothing else."""
    folder = tmp_path / "kept"
    folder.mkdir()
    left = [f"streamer-2025010{day}T000000Z.db" for day in (1, 2, 3)]
    others = ["notes.txt", "streamer-2025.db", "streamer-20250101T000000Z.db.old"]
    partial = [f"streamer-2024010{day}T000000Z.db.partial" for day in (1, 2)]
    for name in (*left, *others, *partial):
        (folder / name).write_text("x")
    with (folder / partial[1]).open() as busy:
        fcntl.flock(busy, fcntl.LOCK_EX)
        assert commands("backup", folder, "--keep", 2) == 0
    found = {path.name for path in folder.iterdir()}
    made = found - {*left, *others, *partial}
    assert found == {*made, *others, left[2], partial[1]}
    assert len(made) == 1
    assert stat.S_IMODE((folder / made.pop()).stat().st_mode) == 0o600
    before = (tmp_path / "streamer.db").read_bytes()
    assert commands("backup", tmp_path / "streamer.db", "--force") == 1
    assert commands("backup", folder / "notes.txt") == 1
    assert commands("backup", folder / "notes.txt", "--keep", 2) == 2
    assert (tmp_path / "streamer.db").read_bytes() == before
    assert (folder / "notes.txt").read_text() == "x"


# ---- PostgreSQL's programs


def put_program(folder: Path, name: str, script: str) -> None:
    """Put a program first on the PATH."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


@on_postgresql
def test_programs_learn_the_password_by_their_environment(
    all_commands: Commands, postgresql: Cluster, database_url: str, tmp_path: Path
) -> None:
    """pg_dump and psql never get the password on the command line. A missing or too old program is named with the next step."""
    first = tmp_path / "programs"
    for name in ("pg_dump", "pg_restore", "psql"):
        real = postgresql.programs / name
        put_program(first, name, f'echo "{name} $@ ; $PGPASSWORD" >> "{tmp_path}/ran"\nexec "{real}" "$@"')
    url = database_url.replace("postgres@", "postgres:geheim@")
    commands = all_commands.at(tmp_path, STREAMER_DATABASE_URL=url, PATH=f"{first}:{os.environ['PATH']}")
    assert commands("backup", "copy") == 0, commands.said
    assert commands("restore", "copy") == 0, commands.said
    ran = [line.partition(" ; ") for line in (tmp_path / "ran").read_text().splitlines()]
    assert {program.split()[0] for program, _, password in ran if password == "geheim"} == {"pg_dump", "psql"}
    assert not any("geheim" in program for program, _, _ in ran)
    put_program(first, "pg_dump", "echo 'pg_dump (PostgreSQL) 12.4'")
    assert commands("backup", "other") == 1
    assert "pg_dump (PostgreSQL) 12.4 is older than the server" in commands.said
    real = postgresql.programs / "pg_dump"
    put_program(first, "pg_dump", f'[ "$1" != --version ] || exec "{real}" "$@"; echo half; exit 1')
    assert commands("backup", "other") == 1
    assert "pg_dump failed" in commands.said
    nowhere = all_commands.at(tmp_path, STREAMER_DATABASE_URL=url, PATH="/nowhere")
    assert nowhere("backup", "other") == 1
    assert "pg_dump is not on the PATH: install PostgreSQL's client programs" in nowhere.said
    assert "geheim" not in nowhere.said
    assert "Traceback" not in nowhere.said
    assert not list(tmp_path.glob("other*"))


@on_postgresql
async def test_a_restore_of_postgresql_is_cut_off(
    all_commands: Commands, postgresql: Cluster, database_url: str, tmp_path: Path
) -> None:
    """If pg_restore fails or the command is killed midway, nothing is committed, and the same command succeeds later."""
    columns = "id, epoch, head, earliest, last_timestamp, org_id, settings, created_at, created_by"
    database = Database(database_url)
    await run_sql(
        database,
        f"INSERT INTO workspaces ({columns}) VALUES ('{WS}', 'old', 1000, 1, 0, 'o', '{{}}', 1, 'ann')",
        "INSERT INTO events (workspace, seq, timestamp, size, id, category, action, actor_type, actor_id, search, body)"
        " SELECT key, n, n, 3, 'e' || n, 'activity', 'a.b', 'user', 'ann', '', 'x' || n"
        " FROM workspaces, generate_series(1, 1000) AS n",
    )
    await database.close()
    name = database_url.split("/")[3].partition("?")[0]

    def stored() -> str:
        return postgresql.sql("SELECT epoch, (SELECT count(*) FROM events) FROM workspaces", name)

    first, real = tmp_path / "programs", postgresql.programs / "pg_restore"
    first.mkdir()
    path = f"{first}:{postgresql.programs}:{os.environ['PATH']}"
    commands = all_commands.at(tmp_path, STREAMER_DATABASE_URL=database_url, PATH=path)
    assert commands("backup", "copy") == 0, commands.said
    assert commands("restore", "copy") == 1
    assert "not empty" in commands.said
    half = f'[ "$1" != --version ] || exec "{real}" "$@"\n"{real}" "$@" | head -c 20000\n'
    for end, code in (("exit 1", 1), ("kill -9 $PPID", KILLED)):
        put_program(first, "pg_restore", half + end)
        assert commands("restore", "copy", "--force") == code
        assert stored() == "old|1000"
    (first / "pg_restore").unlink()
    assert commands("restore", "copy", "--force") == 0, commands.said
    epoch, _, count = stored().partition("|")
    assert (epoch != "old", count) == (True, "1000")
    assert "Traceback" not in commands.said
