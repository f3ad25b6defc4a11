"""The same training on more and more devices: what `launch/benchmark.py scaling` runs.

    planned = requests(sizes([1, 2, 4], None), settings, Load(steps=100, images=64), name)
    rows = list(measure(planned, queue_s=3600))

Each size is a run of its own, submitted as submit.py submits it, one after the other so that they
share neither a network nor cores. The numbers are those that the runs wrote into metrics.csv.

Weak scaling gives each rank as many images a step whatever the number of ranks: how much more a
larger cluster trains on in the same time. Strong scaling keeps the images of a step, so that a rank
has fewer of them: how much sooner the same run is done.
"""

import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from clf.atomic import write_folder
from clf.config import ConfigError, RunConfig
from clf.config.compose import read
from clf.run_folder import read_scalars
from launch.arguments.run import quoted
from launch.runs import lifecycle
from launch.runs.folders import take
from launch.runs.requests import Request, to_submit
from slurm.devices import devices_per_node, has_slurm
from slurm.queue import QueueError
from slurm.state import RunState, read_state

POLL_S = 1.0
CLASSES = 1_000  # of the generated images, as ImageNet has
FILES = 64  # that hold them: a list names each many times
FILE_SIDE = 64  # pixels: decoded in a few hundredths of a millisecond
VALIDATED = 256  # images of the evaluation that ends a run
WINDOWS = 10  # log lines of a run; the first does not count
# So that a run does nothing that waits for a disk or for another machine.
STEADY = ("epochs=1", "report=false", "tracking.mode=disabled", "checkpoint.every_minutes=null")
CHOOSES_DATA = {"data", "recipe", "data.name", "data.root"}
CHOSEN_HERE = ("nodes", "gpus", "name", "limit_batches", "data.batch_size")


@dataclass(frozen=True)
class Load:
    """What each size trains on.

    Args:
        steps: optimizer steps of a run
        images: of a rank's step in weak scaling, of the whole step in strong scaling
    """

    steps: int
    images: int
    strong: bool = False

    def batch_size(self, ranks: int) -> int:
        return self.images if self.strong else self.images * ranks

    def line(self) -> str:
        if self.strong:
            return f"strong scaling: {self.images} images a step, over all ranks"
        return f"weak scaling: {self.images} images a rank and step"


@dataclass(frozen=True)
class Measured:
    """What a run said of itself: medians over its log lines without the first. None: it said
    nothing, for the reason in `fault`."""

    nodes: int
    gpus: int  # a node
    batch_size: int
    images_per_second: float | None = None
    waiting_share: float | None = None
    lines: int = 0  # that count
    fault: str | None = None

    @property
    def ranks(self) -> int:
        return self.nodes * self.gpus

    @property
    def step_s(self) -> float | None:
        return self.batch_size / self.images_per_second if self.images_per_second else None


def sizes(nodes: Sequence[int] | None, gpus: Sequence[int] | None) -> list[tuple[int, int | None]]:
    """Nodes, and devices a node; None: as many as a node has. Without either: 1 and 2 nodes, or
    where there is no SLURM 1 and 2 devices."""
    if nodes is None and gpus is None:
        return [(1, None), (2, None)] if has_slurm() else [(1, 1), (1, 2)]
    devices: Sequence[int | None] = gpus or [None]
    return [(number, each) for number in nodes or [1] for each in devices]


def requests(
    chosen: Sequence[tuple[int, int | None]], settings: Sequence[str], load: Load, name: str
) -> list[Request]:
    """The checked run of each size, before any of them starts. Writes the images if the settings
    choose none.

    Args:
        name: of the folder of the runs, in the settings' `runs_dir`

    Raises:
        ConfigError: every fault of every size
    """
    cfg = _checked(settings)
    folder = Path(cfg.runs_dir, name).absolute()
    if folder.exists():
        raise ConfigError([f"--name {name}: {folder} exists; choose another name"])
    found, faults = list[Request](), list[str]()
    for nodes, gpus in ((nodes, gpus or devices_per_node(cfg)) for nodes, gpus in chosen):
        batch_size = load.batch_size(nodes * gpus)
        of_size = [f"nodes={nodes}", f"gpus={gpus}", f"data.batch_size={batch_size}"]
        of_size += [f"runs_dir={quoted(str(folder))}", f"name={nodes}x{gpus}"]
        all_settings = [*_shared(settings, load), *of_size]
        own_images = folder / f"images-{load.steps * batch_size}"
        if not CHOOSES_DATA & set(_keys(settings)):
            write_images(own_images, load.steps * batch_size)
            all_settings += ["data=annotations", f"data.root={quoted(str(own_images))}"]
        try:
            request = to_submit(all_settings, fetch=True)
        except ConfigError as error:
            faults += [f"{nodes} x {gpus}: {fault}" for fault in error.faults]
            continue
        a_pass = nodes * gpus * (request.cfg.data.micro_batch_size or batch_size)
        request.cfg.limit_batches = load.steps * max(1, batch_size // a_pass)
        # That the same few files stand there many times is meant.
        request.notes = [note for note in request.notes if str(own_images) not in note]
        found.append(request)
    if faults:
        shutil.rmtree(folder, ignore_errors=True)
        raise ConfigError(faults)
    return found


def _checked(settings: Sequence[str]) -> RunConfig:
    """The settings that all sizes share; ConfigError: what is wrong with them."""
    if own := [key for key in _keys(settings) if key in CHOSEN_HERE]:
        flags = "--nodes, --gpus, --name, --steps, --images-per-rank or --images-per-step"
        raise ConfigError([f"{key}: each size has its own; use {flags}" for key in own])
    composed = read(settings)
    if composed.cfg is None or composed.faults:
        raise ConfigError(composed.faults)
    if composed.cfg.data.micro_batch_size == "auto":
        raise ConfigError(
            ["data.micro_batch_size=auto: each size would find another one; give a number, or null"]
        )
    return composed.cfg


def _shared(settings: Sequence[str], load: Load) -> list[str]:
    """The user's settings, and below them what keeps the measurement steady."""
    given = _keys(settings)
    shared = [text for text in settings if not text.startswith("runs_dir=")]
    shared += [text for text in STEADY if not _is_given(text.partition("=")[0], given)]
    if "tracking.log_every" not in given:
        shared.append(f"tracking.log_every={max(1, load.steps // WINDOWS)}")
    return shared


def _keys(settings: Sequence[str]) -> list[str]:
    return [text.partition("=")[0] for text in settings]


def _is_given(key: str, given: Sequence[str]) -> bool:
    """Whether the settings have a say in this one: it, or a file of its group, is among them."""
    return any(key == one or key.startswith(f"{one}.") for one in given)


def write_images(folder: Path, count: int) -> None:
    """A list of so many images to train on, each one of a few small files, so that a run waits for
    its network and its devices rather than for decoding."""
    import numpy as np
    from PIL import Image

    classes = min(CLASSES, count)

    def fill(temporary: Path) -> None:
        rng = np.random.default_rng(0)
        for number in range(FILES):
            corners = rng.integers(0, 256, (2, 2, 3), dtype=np.uint8)
            whole = Image.fromarray(corners).resize(
                (FILE_SIDE, FILE_SIDE), Image.Resampling.BILINEAR
            )
            whole.save(temporary / f"{number}.jpg")
        for split, images in (("train", count), ("val", VALIDATED)):
            with open(temporary / f"{split}.csv", "w", encoding="utf-8") as file:
                file.write("image,label\n")
                file.writelines(f"{row % FILES}.jpg,{row % classes}\n" for row in range(images))

    if not folder.exists():  # another size has as many
        write_folder(folder, fill)


def measure(
    planned: Sequence[Request], queue_s: float, say: Callable[[str], None] = lambda text: None
) -> Iterator[Measured]:
    """Each size in turn: start it, wait for its end and read what it wrote.

    Args:
        queue_s: a job that has not started after so many seconds is cancelled
        say: is given a line whenever something changes
    """
    for request in planned:
        cfg = request.cfg
        assert cfg.gpus is not None
        assert cfg.name is not None
        try:
            fault = Waiting(request, queue_s, say).wait()
        except (ConfigError, QueueError) as error:  # SLURM refuses this one
            fault = str(error)
        run_dir = Path(cfg.runs_dir, cfg.name)
        yield read_run(run_dir, cfg.nodes, cfg.gpus, cfg.data.batch_size, fault)


class Waiting:
    """A run from its submission to its end."""

    def __init__(self, request: Request, queue_s: float, say: Callable[[str], None]) -> None:
        self.queue_s, self._say, self._said = queue_s, say, ""
        self.size = f"{request.cfg.nodes} x {request.cfg.gpus}"
        self.run, lease = take(request)
        self.job = lifecycle.start(request.cfg, self.run, request.notes, lease=lease)
        self.submitted = time.monotonic()

    def wait(self) -> str | None:
        """Block until it has ended. None: it did its work; else why not."""
        try:
            while (state := self._state()).lives:
                late = time.monotonic() - self.submitted > self.queue_s
                if state.state == "queued" and late and self._cancelled():
                    return f"not started within {self.queue_s / 60:g} min ({state.reason})"
                time.sleep(POLL_S)
        except KeyboardInterrupt:
            self._cancelled()
            raise
        return _why(state)

    def _cancelled(self) -> bool:
        """End the job; False if it has ended by itself meanwhile."""
        try:
            lifecycle.cancel(self.run.path)
        except ConfigError:
            return False
        return True

    def _state(self) -> RunState:
        self.job.done()  # a local process that has ended stays until it is asked for
        state = read_state(self.run.path)
        text = f"{state.state} ({state.reason})" if state.reason else state.state
        if text != self._said:
            self._say(f"{self.size}: job {self.job.job_id} is {text}")
        self._said = text
        return state


def _why(state: RunState) -> str | None:
    if state.state == "finished":
        return None
    return ": ".join(filter(None, (state.state, state.diagnosis or state.reason)))


def read_run(
    run_dir: Path, nodes: int, gpus: int, batch_size: int, fault: str | None = None
) -> Measured:
    """What a run wrote of its speed."""
    rows = [row for row in read_scalars(run_dir) if row.get("train/images_per_second")][1:]
    if fault is None and not rows:
        fault = "it wrote fewer than two log lines; give more --steps"
    if fault is not None:
        return Measured(nodes, gpus, batch_size, fault=fault)
    speeds = [float(row["train/images_per_second"]) for row in rows]
    waits = [float(row["train/waiting_share"]) for row in rows if row.get("train/waiting_share")]
    waiting = statistics.median(waits) if waits else None
    return Measured(nodes, gpus, batch_size, statistics.median(speeds), waiting, len(rows))


def compared(rows: Sequence[Measured]) -> list[tuple[float | None, float | None]]:
    """Speed-up and efficiency of each beside the first that has a speed: images/s, and the same a
    rank."""
    first = next((row for row in rows if row.images_per_second), None)
    found = list[tuple[float | None, float | None]]()
    for row in rows:
        if first is None or not row.images_per_second or not first.images_per_second:
            found.append((None, None))
            continue
        speed_up = row.images_per_second / first.images_per_second
        found.append((speed_up, speed_up * first.ranks / row.ranks))
    return found
