"""Files of the command line: paths are literal, a cursor file is complete or an error, and a byte order mark is ignored."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from streamer.cli.cursor import CursorFile
from streamer.cli.remote import Failure
from streamer.settings import Settings, load
from streamer.store.engine.database import Database
from streamer.store.engine.postgresql import BadDatabaseUrl
from tests.support.cli import Cli
from tests.support.tools import ROOT


@pytest.mark.parametrize("name", ["e?f", "g%20h", "a#b", "a b", "ü", "new\nline", "a%b", "a&b=c", "file:x", "é/../d"])
async def test_a_data_directory(tmp_path: Path, name: str) -> None:
    """The database is created in the data directory, whatever its name."""
    (tmp_path / "é").mkdir()
    folder = tmp_path / name
    folder.mkdir()
    database = Database(Settings(data_dir=folder).database)
    await database.write(lambda _connection: None)
    await database.close()
    assert database.file == folder / "streamer.db"
    assert (folder / "streamer.db").is_file()


@pytest.mark.parametrize(
    ("url", "file"),
    [
        ("sqlite:////x/a%20b%3Fc.db", "/x/a b?c.db"),
        ("sqlite:///relative.db", "relative.db"),
        ("sqlite:////x/e?f", None),
        ("sqlite:////x/e?mode=ro", None),
    ],
)
def test_a_url_of_sqlite(url: str, file: str | None) -> None:
    """A URL is decoded as a URL. Parameters, which would be lost or become part of the path, are refused."""
    if file is None:
        with pytest.raises(BadDatabaseUrl, match="%3F"):
            Database(url)
    else:
        assert Database(url).file == Path(file)


async def test_a_folder_that_is_none(tmp_path: Path) -> None:
    """An impossible data directory is an error of one line."""
    (tmp_path / "file").touch()
    for command in ("migrate", "serve"):
        ended = await Cli(tmp_path, {"STREAMER_DATA_DIR": "file/data", "STREAMER_PORT": "0"})(command)
        assert ended.code == 1
        assert ended.err.count("\n") == 1
        assert "file/data: Not a directory" in ended.err


def test_a_byte_order_mark(tmp_path: Path) -> None:
    """A byte order mark at the start of the settings file or a cursor file is ignored."""
    config = tmp_path / "streamer.toml"
    config.write_bytes(b"\xef\xbb\xbfport = 1\n")
    assert load({}, {"STREAMER_CONFIG": str(config)}).port == 1
    cursor = tmp_path / "c"
    cursor.write_bytes(b"\xef\xbb\xbfepoch.9\n")
    assert CursorFile(cursor).read() == "epoch.9"


@pytest.mark.parametrize("content", ["", "\n", "epoch.12", "epoch.\n", "epoch", "\0" * 64])
def test_a_damaged_cursor_file(tmp_path: Path, content: str) -> None:
    """An empty or truncated cursor file is an error that names the file."""
    path = tmp_path / "c"
    path.write_text(content)
    with pytest.raises(Failure, match=f"{path} holds no position"):
        CursorFile(path).read()


def test_a_cursor_file_that_goes(tmp_path: Path) -> None:
    """A cursor file that is removed or replaced while it is written is created again."""
    path = tmp_path / "c"
    cursor = CursorFile(path)
    cursor.write("epoch.1")
    path.unlink()
    cursor.write("epoch.2")
    assert CursorFile(path).read() == "epoch.2"
    (tmp_path / "other").write_text("epoch.7\n")
    (tmp_path / "other").replace(path)
    cursor.write("epoch.3")
    assert CursorFile(path).read() == "epoch.3"
    cursor.close()
    assert [file.name for file in tmp_path.iterdir()] == ["c"]


def test_a_cursor_file_that_cannot_be_renamed_over(tmp_path: Path) -> None:
    """A file that cannot be replaced by renaming, such as a mount point, is written in place."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "c").write_text(f"{'epoch.9'.ljust(200)}\n")
    (tmp_path / "source").write_text(f"{'epoch.9'.ljust(200)}\n")
    script = 'exec python -P -c \'from pathlib import Path; from streamer.cli.cursor import CursorFile\nc = CursorFile(Path("folder/c"))\nfor n in (1, 2): c.write(f"epoch.{n}")\nc.close(); print(c.read())\''
    script = script.replace("python", sys.executable)
    if os.geteuid() == 0:
        command = ["unshare", "-m", "sh", "-c", f"mount --bind source folder/c && {script}"]
    else:
        folder.chmod(0o555)
        command = ["sh", "-c", script]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    folder.chmod(0o755)
    assert (done.stdout, done.stderr, done.returncode) == ("epoch.2\n", "", 0)
    assert [file.name for file in folder.iterdir()] == ["c"]
