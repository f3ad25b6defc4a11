"""Augmentation against torchvision's own classes and kernels, and as a pure function of (image,
generator)."""

import math
import random
import sys

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from clf.config import AugmentConfig, ConfigError, DataConfig
from clf.data import policies, transforms
from clf.data.cache_size import train_short_side
from clf.data.datamodule import ClassificationDataModule
from clf.data.picture import Decoded
from clf.data.transforms import EvalTransform, TrainTransform, draw_crop
from clf.plan import compose

PLAIN = {"crop_scale": [1.0, 1.0], "crop_ratio": [0.1, 10.0], "horizontal_flip": 0.0}


@pytest.fixture
def image_HWC(picture) -> np.ndarray:
    return np.asarray(picture)


def tensor(image_HWC: np.ndarray) -> torch.Tensor:
    return torch.tensor(image_HWC).permute(2, 0, 1).contiguous()


def train(size: int = 24, **augment) -> TrainTransform:
    return TrainTransform(DataConfig(image_size=size, augment=AugmentConfig(**augment)))


class Scripted:
    """A generator that gives what the test wants it to draw."""

    def __init__(self, integers=(), uniform=(), random=(), permutation=()) -> None:
        self.draws = {
            "integers": iter(integers),
            "uniform": iter(uniform),
            "random": iter(random),
            "permutation": iter(permutation),
        }

    def __getattr__(self, name):
        return lambda *args, **kwargs: next(self.draws[name])


# --- crop ---


@pytest.mark.parametrize(
    ("height", "width", "scale", "ratio"),
    [
        (375, 500, (0.08, 1.0), (3 / 4, 4 / 3)),
        (96, 80, (0.7, 1.0), (0.8, 1.25)),
        (40, 400, (0.35, 1.0), (0.75, 1.3333)),  # the ten tries often fail here
    ],
)
def test_crops_are_distributed_as_torchvisions_random_resized_crop(height, width, scale, ratio):
    rng, image = np.random.default_rng(0), torch.empty(3, height, width)
    ours = np.array([draw_crop(height, width, scale, ratio, rng) for _ in range(1000)])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        crop = v2.RandomResizedCrop(8, scale, ratio)
        drawn = [crop.make_params([image]) for _ in range(1000)]
    theirs = np.array([[box[key] for key in ("top", "left", "height", "width")] for box in drawn])
    area, shape = (lambda b: b[:, 2] * b[:, 3]), (lambda b: b[:, 3] / b[:, 2])
    for measure in (area, shape, *(lambda b, i=i: b[:, i] for i in range(4))):
        assert stats.ks_2samp(measure(ours), measure(theirs)).pvalue > 1e-3
    assert (ours[:, 0] + ours[:, 2] <= height).all()
    assert (ours[:, 1] + ours[:, 3] <= width).all()


@pytest.mark.parametrize("box", [(0, 0, 37, 52), (3, 5, 20, 31), (36, 51, 1, 1), (0, 0, 24, 24)])
def test_a_crop_has_the_pixels_of_torchvisions_resized_crop(image_HWC, box):
    ours = transforms.crop_and_resize(Decoded(image_HWC), box, 24)
    assert torch.equal(ours, F.resized_crop(tensor(image_HWC), *box, [24, 24], antialias=True))


def test_a_crop_does_not_write_into_the_image_that_it_came_from(image_HWC):
    image_HWC = image_HWC.copy()
    before = image_HWC.copy()
    augment = {"policy": "trivial_augment", "brightness": 0.5, "erasing": 1.0, "noise": 1.0}
    for seed in range(30):
        train(37, **augment)(Decoded(image_HWC), np.random.default_rng(seed))
    np.testing.assert_array_equal(image_HWC, before)


def test_a_small_crop_is_still_taken_from_enough_pixels():
    augment = AugmentConfig(crop_scale=[0.25, 1.0], crop_ratio=[0.5, 2.0])
    side = train_short_side(DataConfig(image_size=224, augment=augment))
    for shape in ((side, side), (side, 3 * side), (2 * side, side)):
        for seed in range(200):
            rng = np.random.default_rng(seed)
            box = draw_crop(*shape, [0.25, 0.25], [0.5, 2.0], rng)
            assert min(box[2:]) >= 223


# --- the chain ---


EVERYTHING = {
    "horizontal_flip": 0.5, "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1,
    "jpeg": 0.5, "noise": 0.5, "erasing": 0.5,
}  # fmt: skip


@pytest.mark.parametrize("policy", ["none", "rand_augment", "trivial_augment"])
def test_an_augmentation_is_a_function_of_image_and_generator_alone(image_HWC, policy):
    transform = train(policy=policy, **EVERYTHING)
    first = [transform(Decoded(image_HWC), np.random.default_rng(seed)) for seed in range(60)]
    random.seed(99)
    np.random.seed(99)
    torch.manual_seed(99)
    second = [transform(Decoded(image_HWC), np.random.default_rng(seed)) for seed in range(60)]
    assert all(map(torch.equal, first, second))
    assert len({image.numpy().tobytes() for image in first}) > 50
    assert all(image.shape == (3, 24, 24) and image.dtype == torch.uint8 for image in first)


@pytest.mark.parametrize("policy", ["none", "rand_augment", "trivial_augment"])
def test_no_augmentation_draws_from_a_global_generator(image_HWC, policy):
    transform = train(policy=policy, **EVERYTHING)
    python, numpy, pytorch = random.getstate(), np.random.get_state(), torch.get_rng_state()
    for seed in range(60):
        transform(Decoded(image_HWC), np.random.default_rng(seed))
    assert random.getstate() == python
    assert np.array_equal(np.random.get_state()[1], numpy[1])
    assert np.random.get_state()[2:] == numpy[2:]
    assert torch.equal(torch.get_rng_state(), pytorch)


def test_with_all_off_the_whole_image_is_resized_and_nothing_else(image_HWC):
    ours = train(24, **PLAIN)(Decoded(image_HWC), np.random.default_rng(0))
    assert torch.equal(ours, F.resize(tensor(image_HWC), [24, 24], antialias=True))


def test_no_flip_where_left_and_right_matter(image_HWC):
    upright = train(24, **PLAIN)(Decoded(image_HWC), np.random.default_rng(0))
    for seed in range(20):
        assert torch.equal(
            train(24, **PLAIN)(Decoded(image_HWC), np.random.default_rng(seed)), upright
        )
    flipped = train(24, **{**PLAIN, "horizontal_flip": 1.0})(
        Decoded(image_HWC), np.random.default_rng(0)
    )
    assert torch.equal(flipped, F.horizontal_flip(upright))


def test_colour_jitter_is_torchvisions_kernels_in_the_drawn_order(image_HWC):
    augment = AugmentConfig(brightness=0.4, contrast=0.3, saturation=0.2, hue=0.1)
    image = expected = tensor(image_HWC)
    rng = Scripted(permutation=[np.array([2, 3, 0, 1])], uniform=[1.15, -0.05, 0.7, 1.2])
    expected = F.adjust_saturation(expected, 1.15)
    expected = F.adjust_hue(expected, -0.05)
    expected = F.adjust_brightness(expected, 0.7)
    expected = F.adjust_contrast(expected, 1.2)
    assert torch.equal(transforms.jitter(image, augment, rng), expected)


def test_colour_jitter_draws_from_torchvisions_limits(image_HWC):
    reference = v2.ColorJitter(brightness=0.4, contrast=1.5, saturation=0.2, hue=0.1)
    limits = []

    class Recorder:
        def permutation(self, count):
            return np.arange(count)

        def uniform(self, low, high):
            limits.append((low, high))
            return (low + high) / 2

    augment = AugmentConfig(brightness=0.4, contrast=1.5, saturation=0.2, hue=0.1)
    transforms.jitter(tensor(image_HWC), augment, Recorder())
    theirs = [reference.brightness, reference.contrast, reference.saturation, reference.hue]
    np.testing.assert_allclose(limits, theirs)


def test_jpeg_compression_is_torchvisions_at_the_drawn_quality(image_HWC):
    plain = train(24, **PLAIN)(Decoded(image_HWC), np.random.default_rng(0))
    ours = train(24, **PLAIN, jpeg=1.0, jpeg_quality=[30, 30])(
        Decoded(image_HWC), np.random.default_rng(0)
    )
    assert torch.equal(ours, F.jpeg(plain.contiguous(), 30))


def test_noise_has_the_standard_deviation_that_is_asked_for():
    grey = torch.full((3, 100, 100), 128, dtype=torch.uint8)
    noisy = transforms.add_noise(grey, 10.0, np.random.default_rng(0)).double()
    assert noisy.mean().item() == pytest.approx(128, abs=0.3)
    assert noisy.std().item() == pytest.approx(math.sqrt(100 + 1 / 12), rel=0.02)
    white = transforms.add_noise(torch.full_like(grey, 255), 10.0, np.random.default_rng(0))
    assert white.min() > 200  # clipped, not wrapped around to black


def test_erasing_covers_as_much_as_torchvisions_and_with_the_mean_colour():
    white, erasing = torch.full((3, 64, 64), 255, dtype=torch.uint8), v2.RandomErasing(p=1.0)
    mean = torch.tensor(transforms.ERASED_RGB, dtype=torch.uint8)[:, None]
    ours, theirs = [], []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for seed in range(500):
            erased = transforms.erase(white, np.random.default_rng(seed))
            covered = (erased != 255).any(0)
            assert (erased[:, covered] == mean).all()
            ours.append(covered.sum().item())
            box = erasing.make_params([white])
            theirs.append(box["h"] * box["w"])
    assert stats.ks_2samp(ours, theirs).pvalue > 1e-3


# --- policies ---


@pytest.mark.parametrize("policy", [v2.RandAugment(), v2.TrivialAugmentWide()])
def test_every_operation_and_magnitude_of_a_policy_is_torchvisions(image_HWC, policy):
    image = tensor(image_HWC)
    space = policy._AUGMENTATION_SPACE
    assert set(policies.NAMES) == set(space)
    height, width = image.shape[-2:]
    for name, (magnitudes, signed) in space.items():
        assert (name in policies.SIGNED) == signed
        theirs = magnitudes(31, height, width)
        for level in (0, 9, 30):
            if isinstance(policy, v2.RandAugment):
                ours = policies.rand_magnitude(name, level, height, width)
            else:
                ours = policies.trivial_magnitude(name, level)
            if theirs is None:
                expected = 0.0
            else:
                expected = float(theirs[level]) if theirs.ndim else float(theirs)
                assert ours == pytest.approx(expected, rel=1e-5, abs=1e-6)
            for sign in (1, -1) if signed else (1,):
                reference = policy._apply_image_or_video_transform(
                    image, name, sign * expected, policy.interpolation, {torch.Tensor: None}
                )
                result = policies.OPERATIONS[name](image, sign * ours)
                difference = (result.int() - reference.int()).abs()
                assert (difference > 1).float().mean() < 0.002, (name, level, sign)


def test_a_policy_applies_what_it_draws(image_HWC):
    image = tensor(image_HWC)
    posterize, rotate = policies.NAMES.index("Posterize"), policies.NAMES.index("Rotate")
    rng = Scripted(integers=[posterize, rotate], random=[0.4])
    ours = policies.rand_augment(image, ops=2, level=15, rng=rng)
    assert torch.equal(ours, F.rotate(F.posterize(image, 6), -15.0))
    rng = Scripted(integers=[rotate, 10], random=[0.6])
    assert torch.equal(policies.trivial_augment(image, rng), F.rotate(image, 45.0))


def test_policies_draw_all_operations_equally_often(monkeypatch, image_HWC):
    seen = []
    for name in policies.NAMES:
        record = lambda image, _, name=name: seen.append(name) or image  # noqa: E731
        monkeypatch.setitem(policies.OPERATIONS, name, record)
    rng = np.random.default_rng(0)
    for _ in range(1400):
        policies.rand_augment(tensor(image_HWC), 1, 9, rng)
    counts = [seen.count(name) for name in policies.NAMES]
    assert stats.chisquare(counts).pvalue > 1e-3


# --- evaluation ---


@pytest.mark.parametrize("shape", [(37, 52), (52, 37), (16, 16), (400, 30)])
def test_evaluation_resizes_and_takes_the_middle_as_torchvision_does(shape):
    image_HWC = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    reference = v2.Compose([v2.Resize(28, antialias=True), v2.CenterCrop(24)])
    transform = EvalTransform(DataConfig(image_size=24, eval_resize=28))
    assert torch.equal(transform(Decoded(image_HWC)), reference(tensor(image_HWC)))


def test_an_evaluation_may_see_larger_images_than_those_that_train():
    image_HWC = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    cfg = DataConfig(image_size=24, eval_size=32)
    reference = v2.Compose([v2.Resize(round(32 / 0.875), antialias=True), v2.CenterCrop(32)])
    assert torch.equal(EvalTransform(cfg)(Decoded(image_HWC)), reference(tensor(image_HWC)))
    assert TrainTransform(cfg)(Decoded(image_HWC), np.random.default_rng(0)).shape == (3, 24, 24)


def test_evaluation_shows_what_imagenet_evaluation_shows_unless_the_config_says_otherwise():
    assert EvalTransform(DataConfig(image_size=224)).short_side == 256
    assert EvalTransform(DataConfig(image_size=32, eval_resize=32)).short_side == 32


# --- transforms of one's own ---

MY_TRANSFORMS = '''
import torch


class Brighten:
    def __init__(self, by: int, p: float = 1.0) -> None:
        self.by, self.p = by, p

    def __call__(self, image_CHW, rng):
        if rng.random() >= self.p:
            return image_CHW
        return (image_CHW.int() + int(rng.integers(self.by + 1))).clamp(0, 255).to(torch.uint8)


def double(image_CHW, rng):
    return (image_CHW.int() * 2).clamp(0, 255).to(torch.uint8)


class Returns:
    """What a transform must not return."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __call__(self, image_CHW, rng):
        return {
            "float": image_CHW / 255,
            "array": image_CHW.numpy(),
            "smaller": image_CHW[:, 1:],
            "nothing": None,
        }[self.what]


class NotCallable:
    pass
'''


@pytest.fixture(scope="module", autouse=True)
def my_transforms(tmp_path_factory):
    place = tmp_path_factory.mktemp("outside")
    (place / "my_transforms.py").write_text(MY_TRANSFORMS)
    sys.path.insert(0, str(place))
    yield
    sys.path.remove(str(place))


def own(*descriptions: dict, **augment) -> TrainTransform:
    settings = AugmentConfig(**{**PLAIN, **augment}, transforms=list(descriptions))
    return TrainTransform(DataConfig(image_size=24, augment=settings), ["my_transforms"])


DOUBLE = {"_target_": "my_transforms.double", "_partial_": True}
BRIGHTEN = {"_target_": "my_transforms.Brighten", "by": 200, "p": 0.5}


def test_own_transforms_come_in_their_order_after_jpeg_and_before_erasing(image_HWC):
    plain = own()(Decoded(image_HWC), np.random.default_rng(0))
    by_hand = (plain.int() * 4).clamp(0, 255).to(torch.uint8)
    assert torch.equal(own(DOUBLE, DOUBLE)(Decoded(image_HWC), np.random.default_rng(0)), by_hand)
    compressed = own(jpeg=1.0, jpeg_quality=[30, 30])(Decoded(image_HWC), np.random.default_rng(0))
    both = own(DOUBLE, jpeg=1.0, jpeg_quality=[30, 30])(
        Decoded(image_HWC), np.random.default_rng(0)
    )
    assert torch.equal(both, (compressed.int() * 2).clamp(0, 255).to(torch.uint8))
    erased = own(DOUBLE, erasing=1.0)(Decoded(image_HWC), np.random.default_rng(0))
    mean = torch.tensor(transforms.ERASED_RGB, dtype=torch.uint8)[:, None, None]
    assert (erased == mean).all(0).any()  # not doubled


def test_own_transforms_give_the_same_pixels_on_any_number_of_threads(folder, config):
    augment = AugmentConfig(transforms=[BRIGHTEN, DOUBLE])
    images = []
    for threads in (0, 1, 2):
        cfg = config(folder, threads=threads, augment=augment)
        data = ClassificationDataModule(cfg, 0, trusted_packages=["my_transforms"])
        images.append(torch.cat([batch["images"] for batch in data.train_dataloader()]))
    plain = ClassificationDataModule(config(folder, augment=AugmentConfig()), 0)
    assert torch.equal(images[0], images[1])
    assert torch.equal(images[0], images[2])
    without = torch.cat([batch["images"] for batch in plain.train_dataloader()])
    assert not torch.equal(images[0], without)


@pytest.mark.parametrize(
    ("what", "got"),
    [
        ("float", r"a float32 tensor of shape \(3, 24, 24\)"),
        ("array", "a ndarray"),
        ("smaller", r"a uint8 tensor of shape \(3, 23, 24\)"),
        ("nothing", "a NoneType"),
    ],
)
def test_a_transform_that_returns_something_else_is_named_with_what_it_returned(
    image_HWC, what, got
):
    transform = own(DOUBLE, {"_target_": "my_transforms.Returns", "what": what})
    named = r"data\.augment\.transforms\.1 \(my_transforms\.Returns\)"
    expected = r"expected a uint8 tensor of shape \(3, 24, 24\) back"
    with pytest.raises(ValueError, match=f"^{named}: {expected}, got {got}$"):
        transform(Decoded(image_HWC), np.random.default_rng(0))


@pytest.mark.parametrize(
    ("description", "said"),
    [
        ({"_target_": "my_transforms.NotCallable"}, "expected something to call as transform"),
        ({"_target_": "my_transforms.Brighten", "up": 3}, "was not built: .*'up'"),
        ({"_target_": "subprocess.Popen", "args": "true"}, "not a trusted package"),
        ({**BRIGHTEN, "by": {"_target_": "os.getpid"}}, r"\.by\._target_=os.getpid: not a trust"),
        ({"p": 0.5}, "expected {_target_: package.module.Name, argument: value}"),
    ],
)
def test_a_transform_that_cannot_be_built_is_named(description, said):
    with pytest.raises(ValueError, match=rf"^data\.augment\.transforms\.0.*{said}"):
        own(description)


def test_a_wrong_transform_is_a_fault_of_the_configuration():
    words = ["trusted_packages=[my_transforms]"]
    good = "data.augment.transforms=[{_target_: my_transforms.Brighten, by: 3}]"
    assert compose([*words, good]).data.augment.transforms[0]["by"] == 3
    for given, said in {
        "{_target_: my_transforms.Brigten}": "no Brigten in my_transforms; did you mean Brighten?",
        "{_target_: os.system}": "not a trusted package",
        "{p: 1}": "does not say which class to build; write {_target_: package.module.ClassName",
    }.items():
        with pytest.raises(ConfigError) as caught:
            compose([*words, f"data.augment.transforms=[{given}]"])
        (fault,) = caught.value.faults
        assert fault.startswith("data.augment.transforms.0")
        assert said in fault
