"""Folders and lists as people have them: read as a person would read them, or a word about it."""

from pathlib import Path

from tests.data.conftest import write_images
from tests.launch.test_commands import SMALL, typed

NOTED = """
from clf.config import register
from clf.data.reader import Noted, Row


@register(name="noted", group="data")
def read_noted(root):
    files = sorted(root.glob("*.jpg"))
    rows = [Row(str(file), ("ant", "bee")[place % 2]) for place, file in enumerate(files)]
    return Noted({"all": rows}, ["2 files are not read:\\nb.txt, caf\\udce9.txt"])
"""
NOTE = "2 files are not read: b.txt, caf\\xe9.txt"


def test_a_note_of_a_reader_is_shown_at_every_start_and_stays_with_the_run(
    checkout: Path, monkeypatch
) -> None:
    (checkout.parent / "reads_and_notes.py").write_text(NOTED)
    monkeypatch.setenv("PYTHONPATH", str(checkout.parent))
    images = checkout.parent / "images"
    write_images(images, 12)
    words = ["trusted_packages=[reads_and_notes]", "--data", "noted", f"data.root={images}"]
    words += ["data.batch_size=4", *SMALL]
    for script in ("submit.py", "train.py"):
        dry = typed(checkout, script, *words, "--dry-run")
        assert f"note: {NOTE}\n" in dry.stderr, dry.stdout + dry.stderr
        started = typed(checkout, script, *words, "--name", script)
        assert f"note: {NOTE}\n" in started.stdout, started.stdout + started.stderr
        run = checkout.parent / "runs" / script
        assert (run / "notes.txt").read_text() == NOTE + "\n"
    (log,) = (checkout.parent / "runs" / "submit.py" / "logs").glob("*_log.out")
    assert f"note: {NOTE}\n" in log.read_text()
