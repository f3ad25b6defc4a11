"""An exported file says what the evaluation says, for any batch, without this project; and one that
does not is no file."""

import contextlib
import io
import json
import re
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from clf.config import AugmentConfig, EmaConfig
from clf.config.saved import save
from clf.data.decode import decode
from clf.models.exported import Difference, check_int8
from clf.models.onnx_files import is_convolutional
from clf.scoring import evaluate, trained
from launch.arguments.export import FORMATS
from launch.export import main
from launch.runs.export import ENDINGS
from tests import tiny

ROOT = Path(__file__).resolve().parents[2]
SIZE, RESIZE, CLASSES = 32, 37, 10
TOKEN = "hf_" + "x" * 34


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A tiny run on digits; its `state_dict` is the average of its weights."""
    folder = tmp_path_factory.mktemp("export") / "runs" / "tiny"
    cfg = tiny.config(
        str(folder.parent / "digits"),
        data={
            "eval_resize": RESIZE,
            "augment": AugmentConfig(crop_scale=[0.8, 1.0], horizontal_flip=0.0),
        },
        epochs=8,
        ema=EmaConfig(decay=0.9),
        model={"learning_rate": 1e-2},
        name="tiny",
    )
    tiny.fit(cfg, str(folder))
    save(cfg, folder / "config.yaml")
    return folder


@pytest.fixture(scope="module")
def known(run: Path) -> Any:
    """What the evaluation says of the validation images."""
    predictions = evaluate(run, "val", progress=False).predictions
    assert predictions is not None
    return predictions


@pytest.fixture(scope="module")
def exported(run: Path) -> tuple[Path, str]:
    """Every format of the run, and what the command printed."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        assert main([str(run), "--format", ",".join(FORMATS), "--int8"]) == 0
    return run / "export", text.getvalue()


@pytest.fixture(scope="module")
def resizing(run: Path) -> Path:
    """Files with the resize inside."""
    formats = "onnx,torch_export,torchscript"
    assert main([str(run), "--format", formats, "--with-resize", "--images", "40"]) == 0
    return run / "export"


def as_evaluated(path: str) -> np.ndarray:
    """[3, S, S] by torchvision's own functions."""
    image_CHW = torch.from_numpy(decode(path).copy()).permute(2, 0, 1)
    resized = F.resize_image(image_CHW, [RESIZE], InterpolationMode.BILINEAR, antialias=True)
    return F.center_crop_image(resized, [SIZE, SIZE]).numpy()


def opened(path: Path) -> tuple[Any, dict[str, str]]:
    """A file opened with nothing of this project: a function, and the metadata."""
    extra = dict.fromkeys(("labels", "preprocessing", "model_card", "config"), "")
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path)
        metadata = session.get_modelmeta().custom_metadata_map
        return lambda images: session.run(None, {"images": images})[0], metadata
    if path.suffix == ".pt2":
        module = torch.export.load(path, extra_files=extra).module()
    else:
        module = torch.jit.load(path, _extra_files=extra)
        extra = {
            name: bytes(text).decode() if isinstance(text, bytes) else text
            for name, text in extra.items()
        }
    return lambda images: module(torch.from_numpy(images)).detach().numpy(), extra


@pytest.mark.parametrize("kind", ["onnx", "torch_export", "torchscript"])
def test_a_file_gives_the_evaluations_probabilities_for_any_batch(kind, exported, known):
    run, metadata = opened(exported[0] / f"model.{ENDINGS[kind]}")
    images = np.stack([as_evaluated(path) for path in known.images[:12]])
    for start, length in ((0, 1), (1, 3), (4, 8)):
        part = slice(start, start + length)
        given = run(images[part])
        np.testing.assert_allclose(given, known.probabilities_NC[part], atol=1e-5)
    assert json.loads(metadata["labels"]) == known.classes
    how = json.loads(metadata["preprocessing"])
    assert (how["size"], how["resize"], how["interpolation"]) == (SIZE, RESIZE, "bilinear")
    assert how["mean"] == pytest.approx([0.485, 0.456, 0.406])
    assert (how["colour_order"], how["value_range"], how["resize_inside"]) == (
        "RGB",
        [0, 255],
        False,
    )
    assert "## Input and output" in metadata["model_card"]


def test_safetensors_hold_the_average_of_the_weights_with_labels_and_the_networks_name(
    exported, run
):
    from safetensors import safe_open

    checkpoint = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    with safe_open(exported[0] / "model.safetensors", "pt") as file:
        config = json.loads(file.metadata()["config"])
        assert json.loads(file.metadata()["labels"]) == list("0123456789")
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert config["network"] == "tests.tiny.TinyModel"
    assert config["checkpoint"]["averaged"] is True
    for name, tensor in weights.items():
        assert torch.equal(tensor, checkpoint["state_dict"][f"network.{name}"])
    live = checkpoint["clf_ema"]["weights"]
    assert not torch.equal(live["network.0.0.weight"], weights["0.0.weight"])


def test_another_run_begins_with_exported_safetensors(exported):
    file = str(exported[0] / "model.safetensors")
    torch.manual_seed(5)
    fresh = tiny.TinyModel(4, weights=file)  # a head of its own
    config = json.loads((exported[0] / "config.json").read_text())
    assert "took all 11" in fresh.weights_report[0] or fresh.weights_report
    from safetensors.torch import load_file

    stored = load_file(file)
    assert torch.equal(fresh.network[0][0].weight, stored["0.0.weight"])
    assert fresh.network[-1].weight.shape == (4, 16)
    assert config["files"]["model.safetensors"]["changed_predictions"] == 0


def test_the_command_says_how_near_each_file_is_and_what_int8_costs(exported, known):
    folder, text = exported
    config = json.loads((folder / "config.json").read_text())
    accuracy = (known.predicted_N == known.labels_N).mean()
    for name, entry in config["files"].items():
        assert re.search(
            rf"{re.escape(name)} .*{entry['changed_predictions']} of {len(known)}", text
        )
        assert entry["top1_of_checkpoint"] == pytest.approx(accuracy)
        assert entry["bytes"] == (folder / name).stat().st_size
        if not entry["format"].startswith("int8"):
            assert entry["largest_difference"] < 1e-5
    int8 = config["files"]["model.int8.onnx"]
    assert int8["format"] == "int8 static"
    assert 1e-5 < int8["largest_difference"] < 0.2
    assert "a moving average of the weights" in text


def test_an_int8_file_computes_its_convolutions_in_integers(exported):
    import onnx

    graph = onnx.load(exported[0] / "model.int8.onnx").graph
    kinds = {one.name: one.data_type for one in graph.initializer}
    made = {node.output[0]: node for node in graph.node}
    for node in (one for one in graph.node if one.op_type == "Conv"):
        weight = made[node.input[1]]
        assert (weight.op_type, kinds[weight.input[0]]) == ("DequantizeLinear", 3)  # int8
    assert is_convolutional(exported[0] / "model.onnx")


def test_a_file_with_the_resize_inside_takes_images_of_any_size(resizing, run):
    model = trained(run).model
    generator = np.random.default_rng(0)
    files = [resizing / f"model.with_resize.{one}" for one in ("onnx", "pt2", "torchscript")]
    runs = [opened(file)[0] for file in files]
    for height, width, batch in ((41, 73, 1), (90, 50, 3), (37, 37, 8), (38, 64, 2)):
        coarse = generator.integers(0, 256, (batch, 3, 6, 7), dtype=np.uint8)
        images = F.resize_image(torch.from_numpy(coarse), [height, width], antialias=True)
        by_torchvision = F.center_crop_image(
            F.resize_image(images.float(), [RESIZE], InterpolationMode.BILINEAR, antialias=True),
            [SIZE, SIZE],
        )
        with torch.no_grad():
            normalised = (by_torchvision - model.mean) / model.std
            expected = torch.softmax(model.network(normalised), 1).numpy()
        for given in (one(images.numpy()) for one in runs):
            np.testing.assert_allclose(given, expected, atol=1e-4)


def snippets() -> list[str]:
    """The Python of docs/shipping.md that opens an ONNX file."""
    text = (ROOT / "docs" / "shipping.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    return [one for one in blocks if "onnxruntime" in one]


def test_the_snippet_of_the_docs_runs_without_this_project_and_agrees_with_the_evaluation(
    exported, resizing, known, tmp_path, monkeypatch, capsys
):
    plain, with_resize = snippets()
    card = (exported[0] / "README.md").read_text()
    assert f"```python\n{plain}```" in card
    folder = exported[0]
    monkeypatch.chdir(folder)
    for place in range(0, len(known), len(known) // 6):
        for snippet in (plain, with_resize):
            code = snippet.replace("image.jpg", known.images[place])
            exec(compile(code, "snippet", "exec"), {})
            probability, name = capsys.readouterr().out.splitlines()[0].split()
            assert name == known.classes[known.predicted_N[place]]
            assert float(probability) == pytest.approx(known.confidence_N[place], abs=0.01)
    ends = "\nimport sys; print({'clf', 'torch', 'torchvision'} & set(sys.modules))"
    alone = plain.replace("image.jpg", known.images[0]) + ends
    command = [sys.executable, "-I", "-c", alone]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("set()\n")


class Noisy(tiny.TinyModel):
    """Draws random numbers when it evaluates."""

    def build_network(self) -> nn.Module:
        class Noise(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return x + torch.rand_like(x)

        return nn.Sequential(*super().build_network(), Noise())


class Branching(tiny.TinyModel):
    """Python that depends on pixels."""

    def build_network(self) -> nn.Module:
        class Branch(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return x if float(x.max()) > 0 else -x

        return nn.Sequential(*super().build_network(), Branch())


class Brighter(tiny.TinyModel):
    """Does more with its images than to normalise them."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward((images.float() * 0.5).to(torch.uint8))


def of_another_class(run: Path, network: str, folder: Path, factor: float = 1.0) -> Path:
    """The run's checkpoint as if it were of another class of this file, its head times a factor."""
    checkpoint = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    checkpoint["clf"]["config"]["model"]["_target_"] = f"tests.launch.test_export.{network}"
    checkpoint["state_dict"]["network.5.weight"] *= factor
    (folder / "checkpoints").mkdir()
    path = folder / "checkpoints" / "best.ckpt"
    torch.save(checkpoint, path)
    return path


def test_a_file_that_differs_from_the_checkpoint_is_no_file(run, tmp_path, capsys):
    path = of_another_class(run, "Noisy", tmp_path)
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "model.torchscript").write_text("of an earlier export")
    assert main([str(path), "--format", "torchscript", "--images", "20"]) == 2
    error = capsys.readouterr().err
    assert "model.torchscript differs from the checkpoint" in error
    assert "more than --bound 0.001" in error
    assert list((tmp_path / "export").iterdir()) == []


def test_a_network_that_cannot_be_exported_says_the_format_the_reason_and_what_to_do(
    run, tmp_path, capsys
):
    path = of_another_class(run, "Branching", tmp_path)
    assert main([str(path), "--images", "20"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("--format onnx: this network cannot be exported so: ")
    assert "data-dependent" in error
    assert "--format torchscript" in error
    assert "--format safetensors" in error
    assert list((tmp_path / "export").iterdir()) == []


def test_a_file_of_other_weights_is_no_longer_listed_and_said_to_be_so(run, tmp_path, capsys):
    words = ["--images", "9", "--output", str(tmp_path / "files")]
    assert main([str(run), "--format", "torchscript", *words]) == 0
    path = of_another_class(run, "Brighter", tmp_path, factor=2.0)
    assert main([str(path), "--format", "torch_export", *words]) == 0
    assert "model.torchscript was written from other weights" in capsys.readouterr().out
    config = json.loads((tmp_path / "files" / "config.json").read_text())
    assert list(config["files"]) == ["model.pt2"]


def test_a_run_of_a_staged_tar_file_is_compared_on_its_images(run, tmp_path, capsys):
    path = of_another_class(run, "Brighter", tmp_path)
    checkpoint = torch.load(path, weights_only=True)
    data = checkpoint["clf"]["config"]["data"]
    with tarfile.open(tmp_path / "digits.tar", "w") as archive:
        archive.add(data["root"], "digits")
    staged = {"stage": "node", "stage_dir": str(tmp_path / "disk")}
    data |= {"name": "imagefolder", "root": str(tmp_path / "digits.tar"), **staged}
    torch.save(checkpoint, path)
    assert main([str(path), "--format", "torch_export", "--images", "9"]) == 0
    assert "9 of the 179 validation images" in capsys.readouterr().out


def test_a_model_with_a_forward_of_its_own_is_exported_whole(run, tmp_path, capsys):
    path = of_another_class(run, "Brighter", tmp_path)
    assert main([str(path), "--format", "torch_export", "--without-images"]) == 0
    assert "32 images of noise" in capsys.readouterr().out
    images = np.random.default_rng(1).integers(0, 256, (4, 3, SIZE, SIZE), dtype=np.uint8)
    given = opened(tmp_path / "export" / "model.pt2")[0](images)
    with torch.no_grad():
        darker = torch.from_numpy((images * 0.5).astype(np.uint8))
        expected = torch.softmax(trained(run).model(darker), 1)
    np.testing.assert_allclose(given, expected, atol=1e-5)
    assert main([str(path), "--format", "torchscript", "--without-images"]) == 2
    assert "has a forward() or normalised() of its own" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--int8", "--format", "torchscript"], "add --format onnx"),
        (["--int8", "--without-images"], "leave out --without-images"),
        (["--with-resize", "--format", "safetensors"], "holds weights alone"),
        (["--images", "-1"], "--images -1: expected"),
        (["--bound", "nan"], "--bound nan: expected"),
        (["--push", "digits"], "expected OWNER/NAME"),
        (["torch_export"], "--format onnx,torch_export"),
    ],
)
def test_what_does_not_go_together_is_said_before_anything_is_written(run, words, message, capsys):
    assert main([str(run), *words]) == 2
    assert message in capsys.readouterr().err


def test_a_mistyped_format_is_met_with_the_right_one(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["runs/x", "--format", "onx"])
    assert "did you mean onnx?" in capsys.readouterr().err
    assert tuple(ENDINGS) == FORMATS


@pytest.mark.parametrize(
    ("package", "kind"), [("onnxscript", "onnx"), ("safetensors", "safetensors")]
)
def test_a_package_that_is_missing_is_named_with_its_extra(
    run, package, kind, monkeypatch, capsys, tmp_path
):
    for name in [one for one in sys.modules if one.split(".")[0] == package]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, package, None)
    assert main([str(run), "--format", kind, "--images", "9", "--output", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert f"the package {package}" in error
    assert "pip install 'clf[export]'" in error


def test_int8_that_costs_too_much_is_an_error():
    found = Difference(200, 0.3, 9, 0.95, 0.92, 1.0)
    check_int8(found, "model.int8.onnx", 0.03)
    with pytest.raises(ValueError, match=r"from 95.00% to 92.00% on 200 images"):
        check_int8(found, "model.int8.onnx", 0.02)
    with pytest.raises(ValueError, match="no image that it was shown has a label"):
        check_int8(replace(found, top1=None), "model.int8.onnx", 0.02)


class Hub(BaseHTTPRequestHandler):
    """Answers as far as an upload of small files needs it, and keeps what arrives."""

    seen: list[tuple[str, str, bytes]]
    refuses = False

    def do_GET(self) -> None:
        self._answer({"id": "me/digits", "private": True, "siblings": [], "sha": "0" * 40})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.seen.append((self.path, self.headers.get("Authorization", ""), body))
        if self.refuses:
            self._answer({"error": f"no rights with {TOKEN}"}, 403)
        elif self.path.endswith("/repos/create"):
            self._answer({"url": "https://huggingface.co/me/digits"})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            modes = [
                {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                for one in files
            ]
            self._answer({"files": modes})
        else:
            commit = {
                "commitUrl": "https://huggingface.co/me/digits/commit/0",
                "commitOid": "0" * 40,
            }
            self._answer({"success": True, "pullRequestUrl": None, **commit})

    def _answer(self, content: dict[str, Any], code: int = 200) -> None:
        text = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *arguments: Any) -> None:
        """Nothing on the screen."""


@pytest.fixture
def hub(monkeypatch) -> Iterator[type[Hub]]:
    """A stand-in for huggingface.co on this machine, with a token."""
    import huggingface_hub
    from huggingface_hub import constants, hf_api

    class Recording(Hub):
        seen: list[tuple[str, str, bytes]] = []

    server = ThreadingHTTPServer(("127.0.0.1", 0), Recording)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    for module in (constants, hf_api.constants):
        monkeypatch.setattr(module, "ENDPOINT", url)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: TOKEN)
    yield Recording
    server.shutdown()
    server.server_close()


def test_a_repository_is_written_and_without_a_token_not_uploaded(
    run, exported, monkeypatch, capsys
):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert main([str(run), "--format", "safetensors", "--push", "me/digits"]) == 0
    folder = exported[0] / "hub" / "digits"
    files = {one.name for one in folder.iterdir()}
    assert {"README.md", "config.json", "model.onnx", "model.safetensors"} <= files
    assert (folder / "README.md").read_text().startswith("---\npipeline_tag: image-classification")
    out = " ".join(capsys.readouterr().out.split())
    assert "Not uploaded: there is no token" in out
    assert "hf upload me/digits" in out


def test_a_token_uploads_the_folder_and_is_never_printed(run, hub, capsys, tmp_path):
    words = [str(run), "--format", "safetensors", "--output", str(tmp_path), "--push", "me/digits"]
    assert main(words) == 0
    create, *_, commit = hub.seen
    asked = json.loads(create[2])  # in the words of huggingface_hub 2, or of earlier ones
    assert asked.get("visibility") == "private" or asked.get("private") is True
    assert {authorization for _, authorization, _ in hub.seen} == {f"Bearer {TOKEN}"}
    sent = [json.loads(line) for line in commit[2].splitlines()]
    paths = {one["value"]["path"] for one in sent if one["key"] == "file"}
    assert paths == {"README.md", "config.json", "model.safetensors"}
    said = capsys.readouterr()
    assert "/me/digits" in said.out
    hub.refuses = True
    assert main(words) == 2
    refused = capsys.readouterr()
    assert "--push me/digits: the upload failed" in refused.err
    assert (tmp_path / "hub" / "digits" / "model.safetensors").is_file()
    assert TOKEN not in said.out + said.err + refused.out + refused.err
