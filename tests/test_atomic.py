"""Files and folders are written completely or not at all."""

import errno
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from clf import atomic
from clf.atomic import PatientWriter, remove_leftovers, write_file, write_folder, write_text

ROOT = Path(__file__).resolve().parents[1]


def test_a_folder_that_cannot_be_filled_is_not_there_and_leaves_nothing(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_folder(tmp_path / "made", fill)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_private_and_complete_when_its_name_appears(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        assert not (tmp_path / "made").exists()
        (folder / "whole").write_text("x")

    write_folder(tmp_path / "made", fill)
    assert (tmp_path / "made" / "whole").read_text() == "x"
    assert (tmp_path / "made").stat().st_mode & 0o077 == 0
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_a_folder_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    write_folder(tmp_path / "made", lambda folder: (folder / "first").touch())
    with pytest.raises(OSError, match="not empty"):
        write_folder(tmp_path / "made", lambda folder: (folder / "second").touch())
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["first"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_kill_leaves_the_old_one_and_a_leftover_that_is_known(kind: str, tmp_path: Path) -> None:
    target = tmp_path / "kept"
    if kind == "file":
        write_text(target, "old")
    program = (
        "import os, sys; from pathlib import Path\n"
        "from clf.atomic import write_file, write_folder\n"
        "def killed(path):\n"
        "    inner = path / 'half' if path.is_dir() else path\n"
        "    inner.write_text('half')\n"
        "    os.kill(os.getpid(), 9)\n"
        f"write_{kind}(Path(sys.argv[1]), killed)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(target)], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    if kind == "file":
        assert target.read_text() == "old"
    else:
        assert not target.exists()
        (left,) = tmp_path.iterdir()
        assert left.name.endswith(".part")
        remove_leftovers(target)
        assert list(tmp_path.iterdir()) == []


def test_the_bytes_are_on_the_disk_before_the_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_file(tmp_path / "kept", lambda path: path.write_text("x"))
    first, second = synced
    assert Path(first).parent == tmp_path
    assert Path(first).name.endswith(".part")
    assert second == str(tmp_path), "the rename"


class Disk:
    """Raises what a full or a read-only disk does, until it is `well`."""

    def __init__(self, number: int = errno.ENOSPC) -> None:
        self.number, self.well, self.written = number, False, 0

    def write(self) -> None:
        if not self.well:
            raise OSError(self.number, os.strerror(self.number), "/a/temporary.part")
        self.written += 1


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "No space left on device. The training goes on, .* Make space on that"),
        (errno.EROFS, "Read-only file system. .* mount it for writing"),
        (errno.EDQUOT, "Disk quota exceeded. .* Your quota is used up"),
        (errno.EACCES, "Permission denied. .* Let this user write there"),
    ],
)
def test_a_disk_that_takes_nothing_is_named_with_its_remedy(number: int, words: str) -> None:
    path = Path("/runs/one/metrics.csv")
    with pytest.warns(UserWarning, match=f"^{path} cannot be written .*: {words}"):
        assert not PatientWriter().write(path, Disk(number).write)


def test_a_full_disk_is_warned_of_once_a_minute_whatever_is_written(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    now = 0.0
    monkeypatch.setattr(atomic.time, "monotonic", lambda: now)
    writer = PatientWriter()
    for second in range(150):
        now = float(second)
        writer.write(Path("/runs/one/metrics.csv"), Disk().write)
        writer.write(Path("/runs/one/status.json"), Disk().write)
    said = [str(one.message) for one in recwarn]
    assert len(said) == 3
    assert ["and 1 other file cannot" in one for one in said] == [False, True, True]


def test_what_was_kept_is_written_when_there_is_space_and_the_newest_of_a_file_wins() -> None:
    writer, old, new, other = PatientWriter(), Disk(), Disk(), Disk()
    one, two = Path("/runs/one/val.csv"), Path("/runs/one/last.ckpt")
    with pytest.warns(UserWarning, match=re.escape(str(one))):
        writer.write(one, old.write, keep=True)
    writer.write(one, new.write, keep=True)
    writer.write(two, other.write)
    assert not writer.retry()
    assert sorted(writer.missing) == [two, one]
    old.well = new.well = other.well = True
    assert not writer.retry()
    assert (old.written, new.written, other.written) == (0, 1, 0)
    assert list(writer.missing) == [two], "its caller has not tried it again"
    assert writer.write(two, other.write)
    assert writer.retry()
    assert new.written == 1


def test_an_error_that_is_none_of_the_disk_is_raised() -> None:
    def fails() -> None:
        raise ValueError("a fault in the program")

    with pytest.raises(ValueError, match="a fault in the program"):
        PatientWriter().write(Path("x"), fails)
