"""Images that cannot be read are named, or left out without a trace in anything else."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import seed_everything
from PIL import Image
from torchvision.transforms.v2 import functional as F

from clf import run
from clf.batch import PADDING
from clf.config import AugmentConfig, DataConfig, MixConfig
from clf.data import transforms
from clf.data.bad_images import BadImages
from clf.data.datamodule import ClassificationDataModule
from clf.data.decode import decode
from clf.data.loader import ThreadedLoader
from clf.data.picture import Decoded
from clf.data.reader import DataError
from clf.data.transforms import EvalTransform
from clf.models.losses import cross_entropy
from clf.models.mix import Mix
from clf.run_folder import read_scalars
from tests import tiny

BAD = {"train/a/03.png", "train/b/11.png", "val/b/02.png"}


def write(root: Path, bad: set[str] = BAD) -> Path:
    """Two classes with 16 images to train and 5 to validate on each, of which some are broken."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 16), ("val", 5)):
        for name in "ab":
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                path = root / split / name / f"{number:02d}.png"
                Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(path)
                if str(path.relative_to(root)) in bad:
                    path.write_bytes(path.read_bytes()[:200])
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("bad"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("whole"), set())


def settings(root: Path, **more: Any) -> dict[str, Any]:
    images = {"name": "imagefolder", "root": str(root), "image_size": 16, "eval_resize": 16}
    skip = {"on_bad_image": "skip", "max_bad_fraction": 0.2, "threads": 1}
    return {"batch_size": 16, "micro_batch_size": 4} | images | skip | more


# --- error: what it says ---

REMEDY = "; replace it, take it out, or set data.on_bad_image=skip"


def test_each_kind_of_bad_image_is_named_with_a_remedy(tmp_path, monkeypatch):
    picture = Image.new("RGB", (64, 64), (10, 200, 30))
    picture.save(tmp_path / "truncated.jpg")
    data = (tmp_path / "truncated.jpg").read_bytes()
    (tmp_path / "truncated.jpg").write_bytes(data[: len(data) // 2])  # in its tables
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "page.jpg").write_text("<html>404</html>")
    picture.save(tmp_path / "bomb.jpg")
    picture.save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64 // 2 - 1)
    for name, reason in {
        "truncated.jpg": r"cannot be read as an image \(OSError: [Tt]runcated File Read",
        "empty.jpg": "the file is empty",
        "page.jpg": r"cannot be read as an image \(UnidentifiedImageError: ",
        "vanished.jpg": r"cannot be read as an image \(FileNotFoundError: ",
        "bomb.jpg": r"cannot be read as an image \(DecompressionBombError: 4096 pixels, and 4094",
        "bomb.png": r"cannot be read as an image \(DecompressionBombError: ",
    }.items():
        with pytest.raises(DataError, match=f"^{tmp_path / name}: {reason}.*{re.escape(REMEDY)}$"):
            decode(str(tmp_path / name))


def test_an_image_of_absurd_shape_takes_no_more_memory_the_longer_it_is(monkeypatch):
    cfg = DataConfig(image_size=32)
    sizes = []

    def resize(*arguments: Any, **options: Any) -> Any:
        resized = resize_image(*arguments, **options)
        sizes.append(resized.numel())
        return resized

    resize_image = F.resize_image
    monkeypatch.setattr(transforms.F, "resize_image", resize)
    for length in (6_000, 60_001, 600_000):
        row = np.arange(3 * length).reshape(1, length, 3).astype(np.uint8)
        for image in (row, row.swapaxes(0, 1)):
            seen = EvalTransform(cfg)(Decoded(image))
            assert seen.shape == (3, 32, 32)
            # The middle of the image, of which one pixel is as large as the crop.
            middle = row[0, (length - 1) // 2 : length // 2 + 1].mean(axis=0)
            np.testing.assert_allclose(seen.float().mean(dim=(1, 2)), middle, atol=3)
    assert max(sizes) <= 3 * 37 * 37 * 17


def test_a_panorama_is_seen_in_evaluation_as_it_always_was():
    image = np.random.default_rng(0).integers(0, 256, (20, 20 * 16, 3), dtype=np.uint8)
    by_torchvision = F.resize_image(torch.from_numpy(image).permute(2, 0, 1), [37], antialias=True)
    expected = F.center_crop_image(by_torchvision, [32, 32])
    assert torch.equal(EvalTransform(DataConfig(image_size=32))(Decoded(image)), expected)


# --- skip: a loader ---


def batches(root: Path, split: str, rank: int = 0, ranks: int = 1, threads: int = 1) -> list[Any]:
    augment = AugmentConfig(brightness=0.3, noise=0.5)
    cfg = DataConfig(**settings(root, threads=threads, augment=augment))
    module = ClassificationDataModule(cfg, seed=0)
    if split == "val":
        return list(module.eval_loader("val", rank, ranks))
    module._place = lambda: (rank, ranks)  # type: ignore[method-assign]
    return list(module.train_dataloader())


@pytest.mark.parametrize(("ranks", "threads"), [(1, 0), (1, 2), (2, 1), (4, 1)])
@pytest.mark.parametrize("split", ["train", "val"])
def test_no_other_image_changes(root, whole, split, ranks, threads):
    masked = set()
    for rank in range(ranks):
        ours = batches(root, split, rank, ranks, threads)
        theirs = batches(whole, split, rank, ranks, 0)
        for batch, right in zip(ours, theirs, strict=True):
            assert torch.equal(batch["indices"], right["indices"])
            skipped = (batch["labels"] == PADDING) & (batch["indices"] != PADDING)
            masked |= set(batch["indices"][skipped].tolist())
            for name in ("labels", "images"):
                assert torch.equal(batch[name][~skipped], right[name][~skipped])
    names = ClassificationDataModule(DataConfig(**settings(root)), 0).splits
    paths = getattr(names, split).paths
    assert {str(Path(paths[index]).relative_to(root)) for index in masked} == {
        one for one in BAD if one.startswith(split)
    }


def test_an_error_of_another_kind_is_none_of_an_image(root, monkeypatch):
    def broken(*arguments: Any) -> Any:
        raise ValueError("a fault of the transform")

    module = ClassificationDataModule(DataConfig(**settings(root)), 0)
    loader = module.eval_loader("val")
    loader.transform.in_epoch = lambda epoch: broken  # type: ignore[method-assign]
    broken.size = 16  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="a fault of the transform"):
        list(loader)


def test_a_rank_that_alone_has_too_many_stops_at_once_and_leaves_the_list(root, tmp_path):
    module = ClassificationDataModule(DataConfig(**settings(root)), 0)
    train = module.splits.train
    file = tmp_path / "bad_images.txt"
    file.write_text("earlier.jpg\n")
    bad = BadImages(DataConfig(max_bad_fraction=0.02), file)
    loader: ThreadedLoader = module.train_dataloader()
    loader.bad = bad
    with pytest.raises(DataError, match=r"data.max_bad_fraction=0.02: 1 of 32 images of the train"):
        list(loader)
    assert file.read_text().splitlines() == ["earlier.jpg", *bad.reasons]
    assert set(bad.reasons) < set(train.paths)


def test_names_that_are_no_utf8_are_listed_as_they_are(tmp_path):
    bad = BadImages(DataConfig(max_bad_fraction=1.0), tmp_path / "bad_images.txt")
    for name in (b"/x/caf\xe9.jpg", "/x/café.jpg".encode()):
        path = name.decode("utf-8", "surrogateescape")
        bad.add(path, f"{path}: the file is empty; replace it")
    with pytest.warns(UserWarning, match="2 of 10 images cannot be read"):
        bad.settle("train", 2, 10)
    bad.settle("train", 2, 10)
    assert (tmp_path / "bad_images.txt").read_bytes() == (
        b"/x/caf\xe9.jpg\n" + "/x/café.jpg\n".encode()
    )


def test_the_list_names_originals_and_is_one_that_data_exclude_takes(root, tmp_path):
    cfg = DataConfig(root="/tmp/copy", origin=str(root), max_bad_fraction=1.0)
    bad = BadImages(cfg, tmp_path / "bad_images.txt")
    for one in sorted(BAD):
        bad.add(f"/tmp/copy/{one}", f"/tmp/copy/{one}: the file is empty")
    with pytest.warns(UserWarning, match="3 of 42 images cannot be read"):
        bad.settle("train", 3, 42)
    without = DataConfig(**settings(root, exclude=str(bad.file), on_bad_image="error"))
    module = ClassificationDataModule(without, 0)
    splits = module.splits
    assert (len(splits.train), len(splits.val)) == (30, 9)
    assert len(list(module.eval_loader("train"))) + len(list(module.eval_loader("val"))) == 11


# --- skip: mixed images and the loss ---


def test_an_image_whose_partner_is_bad_is_not_mixed_and_counts_as_itself():
    mix = Mix(MixConfig(mixup=1.0), seed=0, epochs=2, batch_size=8)
    images = torch.randn(8, 3, 4, 4)
    labels = torch.tensor([0, 1, PADDING, 1, 0, 0, 1, PADDING])
    whole, _ = mix({"images": images, "labels": labels.abs(), "indices": torch.arange(8)}, 0, 0)
    batch, mixed = mix({"images": images, "labels": labels, "indices": torch.arange(8)}, 0, 0)
    assert mixed is not None
    alone = [2, 3, 6, 7]
    assert torch.equal(batch["images"][alone], images[alone])
    assert mixed.shares_B[alone].tolist() == [1.0] * 4
    assert torch.equal(batch["images"][[0, 1, 4, 5]], whole["images"][[0, 1, 4, 5]])
    model = tiny.TinyModel(2)
    logits = torch.randn(8, 2)
    rows = [0, 1, 3, 4, 5, 6]  # those that can be read
    loss_sum, weight_sum = model.loss_sums(logits, labels, mixed)
    own, _ = cross_entropy(logits[rows], labels[rows], torch.ones(2))
    others, _ = cross_entropy(logits[rows], mixed.labels_B[rows].abs(), torch.ones(2))
    share = mixed.shares_B[rows]
    torch.testing.assert_close(loss_sum, (share * own + (1 - share) * others).sum())
    assert float(weight_sum) == len(rows)


# --- skip: whole runs ---


def config(root: Path, world: int = 1, **more: Any) -> Any:
    strategy = "ddp" if world > 1 else "single"
    data = settings(root, **more.pop("data", {}))
    model = {"_target_": f"{__name__}.WithoutBatchNorm"} | more.pop("model", {})
    return tiny.config(str(root), strategy, world, data=data, model=model, **more)


class WithoutBatchNorm(tiny.TinyModel):
    def build_network(self) -> torch.nn.Module:
        flat = (torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 8), torch.nn.SiLU())
        return torch.nn.Sequential(*flat, torch.nn.Linear(8, self.num_classes))


def by_epoch(folder: Path, name: str) -> list[float]:
    return [float(row[name]) for row in read_scalars(folder) if row.get(name)]


@pytest.mark.parametrize("mix", [{}, {"mixup": 0.4}], ids=["plain", "mixup"])
def test_a_run_is_the_same_on_any_number_of_ranks_and_counts_by_epoch(root, ranks, tmp_path, mix):
    runs = {}
    for world in (1, 2):
        folder = tmp_path / str(world)
        cfg = config(root, world, mix=MixConfig(**mix))
        seen = (
            [tiny.fit(cfg, str(folder))]
            if world == 1
            else ranks(world).run(tiny.fit, cfg, str(folder))
        )
        losses = [seen[j % world]["losses"][j // world] for j in range(16)]
        runs[world] = losses, seen[0]["scalars"]
        assert by_epoch(folder, "train/skipped") == [2.0, 2.0]
        assert by_epoch(folder, "val/skipped")[:2] == [1.0, 1.0]
        listed = (folder / "bad_images.txt").read_text().splitlines()
        assert sorted(listed) == sorted(str(root / one) for one in BAD)
    np.testing.assert_allclose(runs[1][0], runs[2][0], rtol=1e-5)
    for name in ("val/acc_top1", "val/loss", "train/loss"):
        np.testing.assert_allclose(runs[1][1][name], runs[2][1][name], rtol=1e-5)


def test_a_run_that_goes_on_in_mid_epoch_counts_each_bad_image_once(root, tmp_path):
    cfg = config(root)
    straight, folder = tiny.fit(cfg, str(tmp_path / "straight")), tmp_path / "left"
    before = tiny.fit(cfg, str(folder), leave_after_step=1)
    after = tiny.fit(cfg, str(folder))
    assert before["losses"] + after["losses"] == straight["losses"]
    assert by_epoch(folder, "train/skipped") == [2.0, 2.0]
    assert len((folder / "bad_images.txt").read_text().splitlines()) == len(BAD)


def test_a_run_stops_above_the_fraction_and_says_what_to_do(root, tmp_path):
    cfg = config(root, data={"max_bad_fraction": 0.05})
    message = (
        r"^data.max_bad_fraction=0.05: 1 of 10 images of the val split, 10.00%, cannot be read: "
        r".*png: cannot be read as an image \(.*\). Replace them or take them out, or set "
        "data.max_bad_fraction higher$"
    )
    with pytest.raises(DataError, match=message):
        tiny.fit(cfg, str(tmp_path))
    assert str(root / "val/b/02.png") in (tmp_path / "bad_images.txt").read_text().splitlines()


def test_an_epoch_without_a_single_readable_image_moves_no_weight(tmp_path):
    names = {f"train/{name}/{number:02d}.png" for name in "ab" for number in range(16)}
    root = write(tmp_path / "data", names)
    cfg = config(root, data={"max_bad_fraction": 1.0}, model={"weight_decay": 0.0}, epochs=1)
    seed_everything(cfg.seed, verbose=False)
    fresh = WithoutBatchNorm(2).state_dict()
    tiny.fit(cfg, str(tmp_path / "run"))
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    for name, value in saved["state_dict"].items():
        assert torch.equal(value, fresh[name]), name


def test_an_evaluation_leaves_out_the_same_images(root, tmp_path):
    trained = tiny.fit(config(root), str(tmp_path / "run"))
    predictions = tmp_path / "predictions.csv"
    result = run.evaluate(tmp_path / "run", "val", predictions, progress=False)
    assert result.scalars["val/skipped"] == 1.0
    assert result.scalars["val/acc_top1"] == pytest.approx(trained["scalars"]["val/acc_top1"])
    assert len(predictions.read_text().splitlines()) == 1 + 9
