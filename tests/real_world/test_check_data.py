"""launch/check_data.py finds what would stop or falsify a run, and its list of images to leave out
repairs it. The data set is made here, each fault once."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from clf.data import findings, inspection, likeness
from launch.check_data import main
from tests.data.conftest import noise

NUMBERS = {"train": 6, "val": 2, "test": 2}


@pytest.fixture(autouse=True)
def hashing(tmp_path_factory, monkeypatch) -> None:
    """A working folder of its own; and where imagehash is not installed its formula in its place:
    the signs of the lowest 8 x 8 frequencies of 32 x 32 grey levels, above their median."""
    monkeypatch.chdir(tmp_path_factory.mktemp("work"))
    if find_spec("imagehash") is None:
        from scipy.fft import dctn

        def phash(picture: Image.Image) -> SimpleNamespace:
            grey = picture.convert("L").resize((32, 32), Image.Resampling.LANCZOS)
            low = dctn(np.asarray(grey, dtype=float))[:8, :8]
            return SimpleNamespace(hash=low > np.median(low))

        module = ModuleType("imagehash")
        module.__spec__ = ModuleSpec("imagehash", None)
        module.phash = phash  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "imagehash", module)


@pytest.fixture(scope="session")
def clean(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("clean")
    rng = np.random.default_rng(0)
    for split, number in NUMBERS.items():
        for label in ("ant", "bee"):
            (root / split / label).mkdir(parents=True)
            for place in range(number):
                noise(rng, 60, 80).save(root / split / label / f"{place}.jpg", quality=92)
    return root


@pytest.fixture
def faulty(clean, tmp_path) -> Path:
    """Each fault once; the names say which."""
    root = Path(shutil.copytree(clean, tmp_path / "faulty"))
    train, ants = root / "train", root / "train/ant"
    rng = np.random.default_rng(1)
    shutil.copy(ants / "0.jpg", root / "val/ant/leak.jpg")
    shutil.copy(ants / "1.jpg", train / "bee/other_label.jpg")
    shutil.copy(train / "bee/1.jpg", train / "bee/again.jpg")
    with Image.open(train / "bee/2.jpg") as picture:
        picture.resize((64, 48)).save(root / "test/bee/saved_anew.png")
    (train / "bee/empty.jpg").touch()
    whole = (train / "bee/3.jpg").read_bytes()
    (train / "bee/truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (train / "bee/page.jpg").write_text("<html>404</html>")
    Image.new("RGB", (64, 64), (9, 8, 7)).save(ants / "flat.png")
    noise(rng, 10, 12).save(ants / "tiny.png")
    noise(rng, 30, 400).save(ants / "long.png")
    noise(rng, 60, 80).convert("L").save(ants / "grey <b>.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(rng, 60, 80).save(ants / "turned.jpg", exif=exif)
    return root


def report_of(root: Path) -> dict[str, object]:
    return json.loads(Path("data_check", root.name, "report.json").read_text())


def places(root: Path) -> dict[str, list[list[str]]]:
    return {
        one["title"]: [sorted(item["place"] for item in group) for group in one["groups"]]
        for one in report_of(root)["findings"]
    }


def test_every_fault_is_found_and_nothing_else(faulty, capsys):
    assert main([str(faulty)]) == 1
    assert places(faulty) == {
        "cannot be decoded: empty": [["train/bee/empty.jpg"]],
        "cannot be decoded: no image": [["train/bee/page.jpg"]],
        "cannot be decoded: truncated": [["train/bee/truncated.jpg"]],
        "the same image in two splits": [["train/ant/0.jpg", "val/ant/leak.jpg"]],
        "the same image under two labels": [["train/ant/1.jpg", "train/bee/other_label.jpg"]],
        "the same image twice in one split": [["train/bee/1.jpg", "train/bee/again.jpg"]],
        "the same picture, saved anew, in two splits": [
            ["test/bee/saved_anew.png", "train/bee/2.jpg"]
        ],
        "one colour everywhere": [["train/ant/flat.png"]],
        "tiny: a side below 28 pixels": [["train/ant/tiny.png"]],
        "long: a side more than 5 times the other": [["train/ant/long.png"]],
        "not RGB: L": [["train/ant/grey <b>.png"]],
        "turned by EXIF": [["train/ant/turned.jpg"]],
    }
    said = capsys.readouterr().out
    assert "train/bee/truncated.jpg (cannot be read as an image (" in said  # its name once
    assert "A run on these images would stop, or its numbers would be false.\n" in said
    assert "train/bee/empty.jpg (the file is empty)\n" in said
    assert "train/ant/0.jpg = val/ant/leak.jpg\n" in said
    counts = report_of(faulty)["counts"]
    assert counts["ant"] == {"train": 11, "val": 3, "test": 2}


def test_without_what_the_fix_list_names_a_run_is_sound(faulty, capsys):
    assert main([str(faulty), "--fix-list", "bad.txt"]) == 1
    lines = Path("bad.txt").read_text().splitlines()
    assert lines[1:] == [
        "train/ant/0.jpg",  # its copy validates
        "train/ant/1.jpg",  # nobody knows which of its labels is right
        "train/bee/2.jpg",
        "train/bee/empty.jpg",
        "train/bee/other_label.jpg",
        "train/bee/page.jpg",
        "train/bee/truncated.jpg",
    ]
    assert "data.exclude=bad.txt (7 images)" in capsys.readouterr().out
    assert main([str(faulty), "data.exclude=bad.txt"]) == 0
    assert "Nothing in these 25 images would stop a run" in capsys.readouterr().out


def test_where_splits_are_drawn_one_copy_of_each_image_stays(clean, tmp_path):
    root = tmp_path / "classes"
    for label in ("ant", "bee"):
        shutil.copytree(clean / "train" / label, root / label)
    for place in range(5):
        shutil.copy(root / f"ant/{place}.jpg", root / f"ant/{place}copy.jpg")
    main([str(root), "--fix-list", "bad.txt"])
    left_out = Path("bad.txt").read_text().splitlines()[1:]
    # Also of two in one split, since the next draw may part them.
    assert sorted(Path(place).name[0] for place in left_out) == list("01234")


def test_a_darker_photograph_of_a_scene_is_another_picture(clean, tmp_path):
    root = Path(shutil.copytree(clean, tmp_path / "more"))
    bright = np.asarray(noise(np.random.default_rng(3), 60, 80)) // 2 + 100
    for split, picture in {"train": bright, "test": bright - 60}.items():
        Image.fromarray(picture.astype(np.uint8)).save(root / split / "ant/scene.png")
    main([str(root)])
    hashes = {
        facts["likeness"]
        for facts in map(json.loads, Path("data_check/more/cache.jsonl").read_text().splitlines())
        if facts.get("path", "").endswith("scene.png")
    }
    assert len(hashes) == 1
    assert places(root) == {}


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data


def test_the_page_shows_the_worst_images_and_loads_nothing_from_elsewhere(faulty):
    main([str(faulty)])
    page = Page()
    page.feed(Path("data_check/faulty/index.html").read_text())
    sources = [attrs["src"] or "" for tag, attrs in page.tags if tag == "img"]
    assert len(sources) == 4 * 2 + 5  # copies side by side; those that cannot be decoded have none
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert not {"link", "script"} & {tag for tag, _ in page.tags}
    assert "train/ant/grey <b>.png" in page.words
    assert page.words.count("no picture") == 3


def test_a_clean_data_set_has_exit_code_0_and_its_colours(clean):
    assert main([str(clean)]) == 0
    report = report_of(clean)
    assert report["spoils_a_run"] is False
    assert report["findings"] == []
    files = sorted((clean / "train").glob("*/*.jpg"))
    pixels = np.concatenate([np.asarray(Image.open(file)).reshape(-1, 3) for file in files]) / 255
    # Another JPEG decoder than Pillow's: a few grey levels.
    assert report["mean"] == pytest.approx(pixels.mean(0), abs=0.01)
    assert report["std"] == pytest.approx(pixels.std(0), abs=0.01)
    assert report["sizes"]["width"] == [80] * 5
    assert report["sizes"]["width / height"] == pytest.approx([4 / 3] * 5, abs=0.001)


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """The images that are decoded, by name."""
    names: list[str] = []
    facts_of: Callable[..., inspection.Facts] = inspection.facts_of

    def count(member, *rest):
        names.append(Path(member.place).name)
        return facts_of(member, *rest)

    monkeypatch.setattr(inspection, "facts_of", count)
    return names


def test_a_second_look_reads_only_what_has_changed(faulty, decoded):
    main([str(faulty)])
    assert len(decoded) == len(set(faulty.rglob("*.*")))
    first = report_of(faulty)
    decoded.clear()
    main([str(faulty)])
    assert decoded == []
    assert report_of(faulty) == first
    shutil.copy(faulty / "train/ant/5.jpg", faulty / "train/ant/tiny.png")
    os.utime(faulty / "train/ant/4.jpg", (1, 1))
    main([str(faulty)])
    assert sorted(decoded) == ["4.jpg", "tiny.png"]


def test_a_look_that_was_stopped_goes_on_where_it_was(clean, decoded):
    main([str(clean)])
    cache = Path("data_check", clean.name, "cache.jsonl")
    lines = cache.read_text().splitlines(keepends=True)
    cache.write_text("".join(lines[:6]) + lines[6][:40])  # killed in the middle of a line
    decoded.clear()
    assert main([str(clean)]) == 0
    assert len(decoded) == 20 - 5
    decoded.clear()
    assert main([str(clean)]) == 0
    assert decoded == []


def test_without_imagehash_the_command_says_what_to_install_and_exact_works(
    faulty, monkeypatch, capsys
):
    monkeypatch.setattr(likeness, "find_spec", lambda name: None)
    assert main([str(faulty)]) == 2
    assert "pip install 'clf[duplicates]'; or compare files alone with --exact" in (
        capsys.readouterr().err
    )
    assert main([str(faulty), "--exact"]) == 1
    assert "the same image in two splits" in places(faulty)
    assert not [title for title in places(faulty) if "saved anew" in title]


def test_faults_of_the_whole_data_set_are_part_of_the_report(clean, tmp_path, capsys):
    root = Path(shutil.copytree(clean, tmp_path / "more"))
    shutil.copytree(root / "val/ant", root / "val/cat")
    assert main([str(root), "--exact"]) == 1
    assert "the val split has classes that the train split lacks: 'cat'" in capsys.readouterr().out


def test_a_folder_that_cannot_be_made_is_said_before_the_work(clean, capsys):
    Path("file").touch()
    assert main([str(clean), "--out", "file/check"]) == 2
    assert "--out file/check: cannot be made (Not a directory)" in capsys.readouterr().err


def test_large_images_and_classes_that_a_split_lacks_are_worth_a_look(clean, tmp_path, monkeypatch):
    root = Path(shutil.copytree(clean, tmp_path / "more"))
    shutil.rmtree(root / "test/bee")
    noise(np.random.default_rng(2), 60, 90).save(root / "train/ant/large.png")
    monkeypatch.setattr(findings, "HUGE", 5000)
    assert main([str(root)]) == 0
    assert places(root) == {
        "huge: above 0.005 million pixels": [["train/ant/large.png"]],
        "classes without an image in test": [[""]],
    }


def test_a_reader_of_ones_own_is_looked_at_too(clean, tmp_path, monkeypatch):
    (tmp_path / "reads_mine.py").write_text(
        "from clf.config import register\n"
        "from clf.data.reader import Row\n"
        "@register(name='mine', group='data')\n"
        "def read_mine(root):\n"
        "    files = sorted(root.rglob('*.jpg'))\n"
        "    rows = [Row(one.read_bytes(), one.parent.name, str(one)) for one in files]\n"
        "    return {'all': rows}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ["data.name=mine", "trusted_packages=[reads_mine]"]
    assert main([str(clean), *words]) == 0
    assert report_of(clean)["images"] == 20


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["/no/such/folder"], "there is no folder /no/such/folder"),
        ([".", "epochs=3"], "epochs=3: only settings of the data count here"),
        ([".", "data.val_fraction=2"], "data.val_fraction=2"),
        ([".", "--workers", "0"], "--workers 0: expected at least 1"),
    ],
)
def test_what_cannot_be_looked_at_is_said_with_exit_code_2(words, message, capsys):
    assert main(words) == 2
    assert message in capsys.readouterr().err


def test_near_hashes_are_the_pairs_that_a_comparison_of_all_finds():
    rng = np.random.default_rng(0)
    hashes = [int(value) for value in rng.integers(0, 2**63, 300)]
    for place in range(60):
        bits = rng.choice(64, size=place % 8, replace=False)
        hashes.append(hashes[place] ^ sum(1 << int(bit) for bit in bits))
    every = {
        (i, j)
        for i, one in enumerate(hashes)
        for j, other in enumerate(hashes[:])
        if i < j and (one ^ other).bit_count() <= likeness.NEAR
    }
    assert len(every) > 30
    found = list(likeness.near_pairs(hashes))
    assert len(found) == len(set(found))
    assert set(found) == every


def test_two_numbers_on_one_shirt_are_two_pictures():
    def shirt(number: slice) -> np.ndarray:
        picture = np.full((96, 96, 3), (200, 30, 30), dtype=np.uint8)
        picture[30:66, number] = 255
        return likeness.small(picture)

    assert likeness.looks_same(shirt(slice(40, 50)), shirt(slice(40, 50)))
    assert not likeness.looks_same(shirt(slice(40, 50)), shirt(slice(56, 66)))
