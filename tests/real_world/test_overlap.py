"""Images that belong together stay on one side of a split, or a word says so. The right values are
counted by hand."""

from collections import Counter
from pathlib import Path

import pytest

from clf.data import overlap
from clf.data.index import DataError, ImageSplits, load_splits, survey
from clf.plan import examine
from tests.data.conftest import data_config


def touch(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def parts(splits: ImageSplits) -> dict[str, list[Path]]:
    return {split: list(map(Path, getattr(splits, split).paths)) for split in SPLITS}


def faults(root: Path, **settings: object) -> str:
    with pytest.raises(DataError) as caught:
        load_splits(data_config(root, batch_size=1, **settings))
    return str(caught.value)


SPLITS = ("train", "val", "test")


@pytest.fixture
def matches(tmp_path: Path) -> Path:
    """20 matches of 6 to 25 images, each with the numbers 7, 10 and, in five of them, 99."""
    for match in range(20):
        for place in range(6 + match):
            number = "99" if match % 4 == 0 and place == 0 else ("7", "10")[place % 2]
            touch(tmp_path, f"{number}/match{match:02d}/{place}.jpg")
    return tmp_path


def test_a_match_is_trained_on_or_scored_and_never_both(matches):
    splits = load_splits(data_config(matches, group_by="folder"))
    sides: dict[str, set[str]] = {}
    for split, paths in parts(splits).items():
        for path in paths:
            sides.setdefault(path.parent.name, set()).add(split)
    assert len(sides) == 20
    assert all(len(where) == 1 for where in sides.values())
    total = sum(range(6, 26))
    shares = {split: len(paths) / total for split, paths in parts(splits).items()}
    assert shares == pytest.approx({"train": 0.8, "val": 0.1, "test": 0.1}, abs=0.04)
    every = {split: {path.parent.parent.name for path in of} for split, of in parts(splits).items()}
    assert every == dict.fromkeys(SPLITS, {"7", "10", "99"})
    assert splits.notes == []


def test_groups_are_drawn_by_the_seed_alone(matches):
    def drawn(**settings: object) -> dict[str, list[Path]]:
        return parts(load_splits(data_config(matches, group_by="folder", **settings)))

    assert drawn() == drawn(batch_size=8)
    assert len({str(drawn(split_seed=seed)) for seed in range(4)}) == 4


def test_a_pattern_finds_the_same_groups_in_names(matches):
    by_folder = load_splits(data_config(matches, group_by="folder"))
    for pattern in (r"regex:match\d+", r"regex:/(match\d+)/\d+"):
        assert parts(load_splits(data_config(matches, group_by=pattern))) == parts(by_folder)


def test_a_column_of_a_list_groups_its_images(tmp_path):
    lines = []
    for place in range(60):
        touch(tmp_path, f"crops/{place}.jpg")
        player = place // 6
        lines.append(f'{{"image": "crops/{place}.jpg", "label": {place % 2}, "player": {player}}}')
    (tmp_path / "annotations.jsonl").write_text("\n".join(lines))
    cfg = data_config(tmp_path, name="annotations", group_by="column:player")
    drawn = parts(load_splits(cfg))
    players = {split: {int(path.stem) // 6 for path in paths} for split, paths in drawn.items()}
    assert [len(of) for of in players.values()] == [8, 1, 1]
    assert set.union(*players.values()) == set(range(10))
    assert "60 of 60 images have no group: " in faults(
        tmp_path, name="annotations", group_by="column:team"
    )


def test_given_splits_that_share_a_group_are_refused_by_its_name(tmp_path):
    for split, folders in {"train": "abc", "val": "cd"}.items():
        touch(tmp_path, *(f"{split}/{label}/{each}/1.jpg" for label in "xy" for each in folders))
    said = faults(tmp_path, group_by="folder")
    assert (
        "1 of 4 groups are in more than one of the splits that the data has: c (train, val)" in said
    )
    assert survey(data_config(tmp_path, group_by="folder", batch_size=1)).faults == [said]


def test_a_person_in_two_splits_of_a_list_is_found_below_any_folders(tmp_path):
    for split, person in (("train", "p1"), ("train", "p2"), ("val", "p2")):
        touch(tmp_path, *(f"crops/{split}/{label}/{person}/1.jpg" for label in "xy"))
        with (tmp_path / f"{split}.jsonl").open("a") as file:
            for label in "xy":
                image = f"crops/{split}/{label}/{person}/1.jpg"
                file.write(f'{{"image": "{image}", "label": "{label}"}}\n')
    said = faults(tmp_path, name="annotations", group_by="folder")
    assert "1 of 2 groups are in more than one" in said
    assert "crops/p2 (train, val)" in said


def test_val_is_drawn_from_train_by_groups_and_test_stays_as_given(tmp_path):
    for person in range(10):
        touch(tmp_path, *(f"train/{label}/p{person}/{n}.jpg" for label in "xy" for n in range(3)))
    touch(tmp_path, *(f"test/{label}/q/1.jpg" for label in "xy"))
    drawn = parts(load_splits(data_config(tmp_path, group_by="folder")))
    assert Counter(map(len, drawn.values())) == Counter([54, 6, 2])
    assert {path.parent.name for path in drawn["val"]}.isdisjoint(
        path.parent.name for path in drawn["train"]
    )


@pytest.mark.parametrize(
    ("files", "group_by", "message"),
    [
        (["x/1.jpg", "x/a/1.jpg", "y/a/1.jpg"], "folder", "1 of 3 images have no group: "),
        (["x/a/1.jpg", "y/a/1.jpg"], "folder", "in 1 group (a), and 3 splits need one each"),
        (["x/1.jpg", "y/2.jpg"], "regex:^$", "the pattern finds nothing in their paths"),
        (["x/a/1.jpg", "x/b/1.jpg", "y/c/1.jpg"], "column:who", "these alone have columns"),
        (
            ["x/a/1.jpg", "y/b/1.jpg", "z/c/1.jpg"],
            "folder",
            "nothing is left for val and test, since training needs the only groups of some",
        ),
    ],
)
def test_groups_that_cannot_be_drawn_are_refused_with_the_reason(
    tmp_path, files, group_by, message
):
    touch(tmp_path, *files)
    said = faults(tmp_path, group_by=group_by)
    assert said.startswith(f"data.group_by={group_by}: ")
    assert message in said


def test_a_class_that_its_groups_keep_in_training_is_noted(matches):
    touch(matches, *(f"33/match05/{place}.jpg" for place in range(3)))
    splits = load_splits(data_config(matches, group_by="folder"))
    assert {"33"} == {path.parent.parent.name for path in parts(splits)["train"]} - {
        "7",
        "10",
        "99",
    }
    assert splits.notes == [
        f"data.group_by=folder: 1 class is in too few groups to be in {split}, too: 33"
        for split in ("val", "test")
    ]


def test_a_large_group_that_spoils_the_shares_is_noted(tmp_path):
    for person, count in {"a": 50, "b": 40, "c": 40}.items():
        touch(tmp_path, *(f"{label}/{person}/{n}.jpg" for label in "xy" for n in range(count)))
    (note,) = load_splits(data_config(tmp_path, group_by="folder")).notes
    assert "the 3 groups are too large for the shares: train 38% instead of 80%, val " in note


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("data.group_by=player", "expected folder, regex:PATTERN such as"),
        ("data.group_by='regex:('", "( is no regular expression"),
        ("data.group_by=folder", "are generated, and have no groups"),
    ],
)
def test_a_group_by_that_means_nothing_is_refused_before_anything_runs(setting, message):
    (fault,) = examine([setting]).faults
    assert fault.startswith("data.group_by=")
    assert message in fault


def test_a_list_of_images_to_leave_out_is_followed_and_counted(tmp_path):
    touch(tmp_path, *(f"images/{label}/{n}.jpg" for label in "xy" for n in range(20)))
    (tmp_path / "images/x/caf\udce9.jpg").touch()
    listed = ["# bad", "x/3.jpg", str(tmp_path / "images/y/4.jpg"), "x/caf\udce9.jpg", "x/gone.jpg"]
    bad = tmp_path / "bad.txt"
    bad.write_text("\n".join(listed) + "\n", errors="surrogateescape")
    cfg = data_config(tmp_path / "images", exclude=str(bad))
    splits = load_splits(cfg)
    names = {f"{path.parent.name}/{path.name}" for of in parts(splits).values() for path in of}
    assert len(names) == 38
    assert not names & {"x/3.jpg", "y/4.jpg", "x/caf\udce9.jpg"}
    assert [note.removeprefix(f"data.exclude={bad}: ") for note in splits.notes] == [
        "3 images are left out",
        "1 of its 4 lines name no image of the data: x/gone.jpg",
    ]
    bad.unlink()
    assert f"data.exclude={bad}: cannot be read (No such file" in faults(
        tmp_path / "images", exclude=str(bad)
    )


# --- the same image in two splits, or under two labels ---


def contents(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        touch(root, name)
        (root / name).write_bytes(content)
    return root


def overlaps(root: Path) -> list[str]:
    """The notes at the start of a run."""
    words = ["data=imagefolder", f"data.root={root}", "data.batch_size=1"]
    examined = examine([*words, "strategy.accelerator=cpu", "gpus=1"])
    assert examined.faults == []
    return [note for note in examined.notes if "check_data.py" in note]


def plain(root: Path) -> dict[str, bytes]:
    """Two classes and three splits of files that differ, some only in their first bytes."""
    return {
        f"{split}/{label}/{n}.jpg": f"{split}{label}{n}".encode().ljust(12) + bytes(9000)
        for split in SPLITS
        for label in "xy"
        for n in range(3)
    }


def test_images_that_differ_are_no_overlap(tmp_path):
    assert overlaps(contents(tmp_path, plain(tmp_path))) == []


def test_the_same_bytes_in_two_splits_are_noted_with_both_names(tmp_path):
    files = plain(tmp_path)
    files["val/x/7.jpg"] = files["train/x/1.jpg"]
    files["test/y/8.jpg"] = files["train/y/2.jpg"] = b"short"
    (note,) = overlaps(contents(tmp_path, files))
    assert note == (
        "2 images are in more than one split, so that scores come out too high (the same file or "
        "the same bytes): train/x/1.jpg (train) = val/x/7.jpg (val), train/y/2.jpg (train) = "
        f"test/y/8.jpg (test); `python launch/check_data.py {tmp_path} --fix-list bad.txt` lists "
        "what to leave out with data.exclude=bad.txt"
    )


def test_the_same_image_under_two_labels_is_noted(tmp_path):
    files = plain(tmp_path)
    files["train/y/7.jpg"] = files["train/x/1.jpg"]
    (note,) = overlaps(contents(tmp_path, files))
    assert "1 image is there under more than one label (the same" in note
    assert "train/x/1.jpg (x) = train/y/7.jpg (y)" in note


def test_links_to_one_file_are_one_image(tmp_path):
    contents(tmp_path, plain(tmp_path))
    (tmp_path / "val/x/7.jpg").hardlink_to(tmp_path / "train/x/1.jpg")
    (note,) = overlaps(tmp_path)
    assert "train/x/1.jpg (train) = val/x/7.jpg (val)" in note


def test_the_start_of_a_run_reads_no_more_than_its_limits_and_says_what_it_left_out(
    tmp_path, monkeypatch
):
    files = plain(tmp_path)
    files["val/x/7.jpg"] = files["train/x/1.jpg"]
    contents(tmp_path, files)
    monkeypatch.setattr(overlap, "MOST_BYTES", 30_000)
    (note,) = overlaps(tmp_path)
    assert note.startswith("16 images of like sizes were not compared with each other")
    monkeypatch.setattr(overlap, "MOST_READ", 10)
    (note,) = overlaps(tmp_path)
    assert note.startswith("16 images of like sizes were not compared")
    monkeypatch.setattr(overlap, "MOST_IMAGES", 10)
    (note,) = overlaps(tmp_path)
    assert "were not looked for, as there are more than 10 images" in note
