"""data.cache: images are decoded once for all processes of a node, and pictures stay the same."""

import errno
import multiprocessing
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from clf.config import AugmentConfig, DataConfig, RunConfig
from clf.config.rules import check
from clf.data import cache_build, cache_place, cache_size
from clf.data.cache import CachedPicture, fingerprint
from clf.data.cache_size import train_short_side
from clf.data.datamodule import ClassificationDataModule
from clf.data.decode import open_picture
from clf.data.index import load_splits, survey
from clf.data.picture import Decoded
from clf.data.reader import DataError
from clf.run import fit
from slurm.stage import stage
from tests import tiny
from tests.data.conftest import data_config, noise, write_images


@pytest.fixture
def cached(folder: Path, tmp_path: Path) -> Callable[..., DataConfig]:
    def of(kind: str = "ram", root: Path = folder, **changes: Any) -> DataConfig:
        return data_config(root, **{"cache": kind, "cache_dir": str(tmp_path / "node"), **changes})

    return of


def ready(cfg: DataConfig) -> ClassificationDataModule:
    data = ClassificationDataModule(cfg, seed=3)
    data.prepare_data()
    data.setup("fit")
    return data


def seen(data: ClassificationDataModule) -> list[torch.Tensor]:
    """All that an epoch of training and a validation see."""
    loaders = (data.train_dataloader(), data.val_dataloader())
    return [part for loader in loaders for batch in loader for part in batch.values()]


def same(parts: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    return len(parts) == len(others) and all(map(torch.equal, parts, others))


def files(cfg: DataConfig) -> list[str]:
    return sorted(path.name for path in cache_place.known_folder(cfg).iterdir())


def read_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, to read an image from its file is an error."""

    def never(*args: object) -> None:
        raise AssertionError("an image was read from its file")

    monkeypatch.setattr("clf.data.loader.open_picture", never)
    monkeypatch.setattr("clf.data.cache_build.open_picture", never)


# --- the same pictures ---


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_an_epoch_is_the_one_without_a_cache_to_the_bit_and_reads_no_file(
    folder: Path,
    cached: Callable[..., DataConfig],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    threads: int,
) -> None:
    expected = seen(ready(data_config(folder)))
    data = ready(cached(kind, threads=threads))
    read_no_more(monkeypatch)
    assert same(seen(data), expected)


@pytest.mark.parametrize("shape", [(24, 28), (64, 48), (48, 17), (256, 1), (16, 16), (8, 32)])
def test_an_evaluation_is_the_same_to_the_bit_for_every_shape(
    cached: Callable[..., DataConfig], tmp_path: Path, shape: tuple[int, int]
) -> None:
    root = tmp_path / "images"
    for place, name in enumerate(("train/a", "train/b", "val/a", "val/b")):
        (root / name).mkdir(parents=True)
        for number in range(2):
            rng = np.random.default_rng(10 * place + number)
            noise(rng, *shape).save(root / name / f"{number}.png")
    data, without = ready(cached(root=root)), ready(data_config(root))
    for one, other in zip(data.val_dataloader(), without.val_dataloader(), strict=True):
        assert torch.equal(one["images"], other["images"])


def test_a_large_photograph_is_kept_as_large_as_its_smallest_crop_needs_and_looks_alike(
    cached: Callable[..., DataConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "photographs"
    for name in ("train/a", "train/b", "val/a", "val/b"):
        (root / name).mkdir(parents=True)
        for number in range(4):
            rng = np.random.default_rng(number)
            image = noise(rng, 75, 100).resize((403, 300), Image.Resampling.BICUBIC)
            image.save(root / name / f"{number}.jpg", quality=95)
    plain = {"image_size": 32, "augment": AugmentConfig(crop_scale=[0.3, 1.0])}
    data, without = ready(cached(root=root, **plain)), ready(data_config(root, **plain))
    picture = data.train_dataloader().cache.picture(0)
    side = train_short_side(data.cfg)
    assert isinstance(picture, CachedPicture)
    assert (picture.height, picture.width) == (300, 403)
    assert picture.pixels_hwC.shape == (side, round(403 * side / 300), 3)

    def whole(*args: Any) -> Decoded:  # with no detail left out, as JPEG's decoder otherwise would
        picture = open_picture(*args)
        return Decoded(picture.crop((0, 0, picture.height, picture.width), 0))

    monkeypatch.setattr("clf.data.loader.open_picture", whole)
    for one, other in zip(data.train_dataloader(), without.train_dataloader(), strict=True):
        assert torch.equal(one["indices"], other["indices"])
        errors = (one["images"].float() - other["images"].float()).abs()
        assert errors.mean() < 4  # of 255; another crop of these is above 20 away


def test_a_box_of_the_file_is_the_same_place_in_the_stored_pixels() -> None:
    pixels_hwC = np.arange(10 * 20 * 3, dtype=np.uint8).reshape(10, 20, 3)
    picture = CachedPicture(pixels_hwC, 100, 200)
    np.testing.assert_array_equal(picture.crop((20, 40, 30, 60), 1), pixels_hwC[2:5, 4:10])
    np.testing.assert_array_equal(picture.crop((0, 0, 100, 200), 1), pixels_hwC)
    for top in range(100):  # a box of a single pixel has one here too
        np.testing.assert_array_equal(
            picture.crop((top, 199, 1, 1), 1).shape, (1, 1, 3), f"from {top}"
        )


def test_a_transform_that_writes_into_its_image_spoils_no_later_epoch() -> None:
    pixels_hwC = np.zeros((4, 4, 3), np.uint8)
    CachedPicture(pixels_hwC, 4, 4).crop((0, 0, 4, 4), 4)[:] = 9
    assert not pixels_hwC.any()


# --- who builds, who waits, who deletes ---


def test_memory_is_given_back_by_the_last_run_and_a_disk_keeps_it_for_the_next(
    cached: Callable[..., DataConfig],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = ready(cached("ram")), ready(cached("ram"))
    said = capsys.readouterr().out
    assert "cache: 30 train images, 0.1 MB in" in said
    assert "built in 0 s" in said
    assert "reused" in said
    first.teardown("test")
    assert seen(second)
    assert files(cached("ram"))
    second.teardown("test")
    assert files(cached("ram")) == []
    ready(cached("disk")).teardown("test")
    read_no_more(monkeypatch)
    capsys.readouterr()
    assert seen(ready(cached("disk")))
    assert "built" not in capsys.readouterr().out


def _of_rank(cfg: DataConfig, kind: str) -> tuple[int, list[np.ndarray]]:
    """How many images this rank has decoded, and what it sees."""
    count, real = [], cache_build.open_picture

    def counting(*args: Any) -> Any:
        count.append(1)
        time.sleep(0.01)
        return real(*args)

    cache_build.open_picture = counting  # type: ignore[attr-defined]
    torch.distributed.barrier()
    try:
        data = ready(replace(cfg, cache=kind, cache_dir=cfg.cache_dir if kind != "none" else None))
        parts = [part.numpy() for part in seen(data)]
        torch.distributed.barrier()  # or a rank that starts late finds nothing to share
        return len(count), parts
    finally:
        cache_build.open_picture = real  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_of_two_processes_that_start_at_once_one_decodes_each_image_once(
    ranks: Callable[[int], Any], cached: Callable[..., DataConfig], kind: str
) -> None:
    (first, ours), (second, theirs) = ranks(2).run(_of_rank, cached(), kind)
    assert sorted((first, second)) == [0, 39]
    (_, expected), _ = ranks(2).run(_of_rank, cached(), "none")
    for one in (ours, theirs):
        assert all(map(np.array_equal, one, expected))


def _stuck(cfg: DataConfig, after: int) -> None:
    """Decode so many images, and then stand still."""
    count, real = [], cache_build.open_picture

    def slow(*args: Any) -> Any:
        count.append(1)
        if len(count) > after:
            time.sleep(600)
        return real(*args)

    cache_build.open_picture = slow  # type: ignore[attr-defined]
    cache_build.CHUNK = 1
    ready(cfg)


@pytest.fixture
def stuck(cached: Callable[..., DataConfig]) -> Iterator[Callable[[DataConfig], Any]]:
    """Starts a process that has begun to build, and will not end."""
    started = []

    def start(cfg: DataConfig) -> Any:
        process = multiprocessing.get_context("fork").Process(target=_stuck, args=(cfg, 8))
        process.start()
        started.append(process)
        folder, end = cache_place.known_folder(cfg), time.monotonic() + 60
        while not any(path.stat().st_size > 5000 for path in folder.glob("train-*.pixels")):
            assert time.monotonic() < end
            assert process.is_alive()
            time.sleep(0.02)
        return process

    yield start
    for process in started:
        process.kill()
        process.join()


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_a_builder_that_is_killed_leaves_nothing_that_is_read_or_that_stays(
    folder: Path,
    cached: Callable[..., DataConfig],
    stuck: Callable[[DataConfig], Any],
    kind: str,
) -> None:
    expected = seen(ready(data_config(folder)))
    process = stuck(cached(kind))
    process.kill()
    process.join()
    left = [name for name in files(cached(kind)) if name.endswith(".pixels")]
    assert len(left) == 1
    other = ready(cached(kind, background="red"))  # keeps them under other names
    assert not set(left) & set(files(cached(kind)))
    assert same(seen(ready(cached(kind))), expected)
    other.teardown("test")


def test_a_process_that_waits_takes_over_from_a_builder_that_dies(
    folder: Path,
    cached: Callable[..., DataConfig],
    stuck: Callable[[DataConfig], Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cache_place, "SAY_EVERY_S", 0.1)
    process = stuck(cached())
    killer = threading.Timer(1.0, process.kill)
    killer.start()
    data = ready(cached())
    killer.join()
    assert "cache: waiting for another process" in capsys.readouterr().out
    assert same(seen(data), seen(ready(data_config(folder))))


def test_a_builder_that_stands_still_is_an_error_in_the_end(
    cached: Callable[..., DataConfig],
    stuck: Callable[[DataConfig], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cache_place, "SILENT_S", 0.3)
    stuck(cached())
    with pytest.raises(DataError, match="has written nothing for .* end it .fuser"):
        ready(cached())


def test_what_a_killed_run_left_in_memory_is_deleted_by_a_run_without_a_cache(
    folder: Path,
    cached: Callable[..., DataConfig],
    stuck: Callable[[DataConfig], Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(cache_place, "MEMORY", tmp_path / "node")
    (tmp_path / "node").mkdir()
    whole, process = ready(cached()), stuck(cached(background="red"))
    process.kill()
    process.join()
    ready(data_config(folder))
    assert len([name for name in files(cached()) if name.endswith(".pixels")]) == 2  # `whole`
    whole.teardown("test")
    assert files(cached()) == []


def test_a_process_that_is_asked_to_leave_builds_no_further_and_reads_files(
    folder: Path, cached: Callable[..., DataConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = cache_build.open_picture

    def signalled(*args: Any) -> Any:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR2)
        return real(*args)

    monkeypatch.setattr(cache_build, "open_picture", signalled)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    try:
        data = ready(cached())
    finally:
        assert signal.sigwait([signal.SIGUSR2]) == signal.SIGUSR2
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert files(cached()) == []
    assert same(seen(data), seen(ready(data_config(folder))))


# --- whose pixels they are ---


def test_other_images_and_other_settings_have_other_pixels(
    cached: Callable[..., DataConfig], tmp_path: Path
) -> None:
    root = tmp_path / "images"
    for split in ("train", "val"):
        for seed, name in enumerate(("a", "b")):
            write_images(root / split / name, 4, seed)
    cfg = cached(root=root)

    def of(trains: bool = True, **changes: Any) -> str:
        changed = replace(cfg, **changes)
        splits = load_splits(changed)
        return fingerprint(splits.train if trains else splits.val, changed, trains)

    first = of()
    staged = stage(RunConfig(data=replace(cfg, stage="node", stage_dir=str(tmp_path / "disk"))))
    moved = shutil.copytree(root, tmp_path / "moved")
    same_pixels = [
        of(),
        of(root=str(moved)),
        of(root=staged.data.root, origin=staged.data.origin),
        of(cache="disk", eval_size=32, threads=3, start_size=8),
    ]
    assert set(same_pixels) == {first}
    others = [of(trains=False), of(image_size=24), of(background="red"), of(white_level=9.0)]
    others += [of(augment=AugmentConfig(crop_scale=[0.08, 1.0]))]
    others += [
        of(False, eval_size=24),
        of(False, eval_resize=20),
        of(False, interpolation="bicubic"),
    ]
    image = root / "train" / "a" / "000.jpg"
    size, content = image.stat().st_size, image.read_bytes()
    image.write_bytes(content[:-2] + b"\0\0")
    os.utime(image, ns=(0, 5))
    assert image.stat().st_size == size
    others.append(of())
    image.rename(image.with_name("zzz.jpg"))
    others.append(of())
    assert len({first, *others}) == 1 + len(others)


def test_a_changed_image_is_decoded_anew_on_a_disk(
    cached: Callable[..., DataConfig], tmp_path: Path
) -> None:
    root = tmp_path / "images"
    for split in ("train", "val"):
        for seed, name in enumerate(("a", "b")):
            write_images(root / split / name, 4, seed)
    before = seen(ready(cached("disk", root=root)))
    noise(np.random.default_rng(99), 24, 28).save(root / "train" / "a" / "000.jpg", quality=90)
    after = seen(ready(cached("disk", root=root)))
    assert not same(before, after)
    assert same(after, seen(ready(data_config(root))))


# --- what goes wrong ---


@pytest.fixture
def with_broken(tmp_path: Path) -> Path:
    root = tmp_path / "broken"
    for split in ("train", "val"):
        for seed, name in enumerate(("a", "b")):
            write_images(root / split / name, 6, seed)
    (root / "train" / "a" / "002.jpg").write_bytes(b"")
    (root / "val" / "b" / "001.jpg").write_bytes(b"no image")
    return root


def test_images_that_cannot_be_read_are_left_out_as_without_a_cache(
    cached: Callable[..., DataConfig], with_broken: Path
) -> None:
    skips = {"on_bad_image": "skip", "max_bad_fraction": 0.5}
    data, without = (
        ready(cached(root=with_broken, **skips)),
        ready(data_config(with_broken, **skips)),
    )
    assert same(seen(data), seen(without))
    assert data._bad is not None
    assert without._bad is not None
    reasons = [
        {path: re.sub("0x[0-9a-f]+", "", why) for path, why in bad.reasons.items()}
        for bad in (data._bad, without._bad)
    ]
    assert reasons[0] == reasons[1]
    assert len(data._bad.reasons) == 2


def test_an_image_that_cannot_be_read_stops_the_run_with_the_words_of_one_without_a_cache(
    cached: Callable[..., DataConfig], with_broken: Path
) -> None:
    with pytest.raises(DataError) as without:
        seen(ready(data_config(with_broken)))
    with pytest.raises(DataError) as with_cache:
        ready(cached(root=with_broken))
    assert str(with_cache.value) == str(without.value)
    assert with_cache.value.__notes__ == without.value.__notes__
    assert files(cached()) == []


def test_what_does_not_fit_is_said_before_anything_is_written(
    cached: Callable[..., DataConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="need about .*MB .train .*MB, val .*MB.*cache_gb=1e-05"):
        ready(cached(cache_gb=1e-5))
    assert files(cached()) == []
    monkeypatch.setattr(cache_size, "free_bytes", lambda folder, kind: 50_000)
    with pytest.raises(DataError, match="50% of the 0.1 MB that are free"):
        ready(cached())
    with pytest.raises(DataError, match="no more is free"):
        ready(cached("disk", cache_gb=1.0))
    assert files(cached()) == []


def test_images_that_are_larger_than_was_estimated_take_no_more_than_is_allowed(
    cached: Callable[..., DataConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_size, "needed_bytes", lambda *args: 1)
    with pytest.raises(DataError, match="larger than .* some of them said, and 0.0 MB may be"):
        ready(cached(cache_gb=2e-5))
    assert files(cached()) == []


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_a_disk_that_fills_up_meanwhile_is_said_with_what_to_do(
    cached: Callable[..., DataConfig], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def full(*args: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cache_build.os, "pwrite", full)
    with pytest.raises(DataError, match="No space left on device. Make space on that disk"):
        ready(cached(kind))
    assert files(cached(kind)) == []


def test_a_folder_that_cannot_be_written_is_named_with_the_setting(
    cached: Callable[..., DataConfig], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="data.cache=ram: nothing can be written in .*cache_dir"):
        ready(cached(cache_dir=str(tmp_path / "file")))


def test_settings_that_do_nothing_are_refused() -> None:
    def faults(**data: Any) -> list[str]:
        cfg = RunConfig(data=DataConfig(**data))
        return [fault for fault in check(cfg) if fault.startswith("data.cache")]

    assert faults(cache="ram", cache_gb=2.0, cache_dir="/tmp") == []
    assert len(faults(cache_gb=2.0, cache_dir="/tmp")) == 2
    assert faults(cache="device", cache_gb=2.0, cache_dir="/tmp") == []
    assert "cache_gb" in faults(cache="ram", cache_gb=0.0)[0]


def test_a_check_before_the_run_says_how_much_it_will_take(
    cached: Callable[..., DataConfig],
) -> None:
    data = ready(cached())
    caches = (data.train_dataloader().cache, data.val_dataloader().cache)
    train, val = [cache.facts["bytes"] for cache in caches if cache is not None]
    assert cache_size.needed_bytes(data.splits.train.images, data.cfg, trains=True) == train
    assert cache_size.needed_bytes(data.splits.val.images, data.cfg, trains=False) == val
    notes = survey(cached(), contents=True).notes
    assert any(note.startswith("data.cache=ram: about 0.1 MB (train ") for note in notes)


def test_the_memory_of_a_control_group_counts_as_the_limit_that_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("memory.max", "1000"), ("memory.current", "900")):
        (tmp_path / name).write_text(value)
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 50\n")
    assert cache_place._left(tmp_path, "memory.max", "memory.current") == 150
    assert 0 < cache_place.free_bytes(tmp_path, "ram") <= shutil.disk_usage(tmp_path).free


# --- runs ---


def test_an_evaluation_reads_what_a_run_left_on_the_disk_and_builds_nothing(
    folder: Path, cached: Callable[..., DataConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    def evaluated(cfg: DataConfig, split: str) -> list[torch.Tensor]:
        data = ClassificationDataModule(cfg, seed=3)
        return [part for batch in data.eval_loader(split) for part in batch.values()]

    expected = {split: evaluated(data_config(folder), split) for split in ("val", "test")}
    assert same(evaluated(cached("disk"), "val"), expected["val"])
    assert not cache_place.known_folder(cached("disk")).exists()
    ready(cached("disk")).teardown("test")
    before = files(cached("disk"))
    assert same(evaluated(cached("disk"), "test"), expected["test"])
    assert files(cached("disk")) == before
    read_no_more(monkeypatch)
    assert same(evaluated(cached("disk"), "val"), expected["val"])


def test_a_run_has_the_numbers_of_one_without_a_cache_and_leaves_no_memory_taken(
    tmp_path: Path,
) -> None:
    root, node = str(tmp_path / "digits"), str(tmp_path / "node")
    kept = {"cache": "ram", "cache_dir": node}
    without = fit(tiny.config(root, epochs=1), tmp_path / "without", progress=False)
    cfg = tiny.config(root, epochs=1, data=kept)
    assert fit(cfg, tmp_path / "with", progress=False) == without
    assert files(cfg.data) == []
