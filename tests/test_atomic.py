"""Files and folders are written completely or not at all."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from clf.atomic import remove_leftovers, write_file, write_folder, write_text

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
