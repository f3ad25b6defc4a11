"""What a run imports, and that what it does not import still works for those who use it."""

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from clf.parallel.light_imports import Later, execute_with

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import sys
from clf.parallel.light_imports import Later, lighten_imports

lighten_imports()
import clf.run

import gc
import torch
from torch import nn

assert gc.isenabled() and gc.get_freeze_count() > 100_000

def trained(kind, **settings):
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(4, 3))
    optimizer = kind([weight], lr=0.1, **settings)
    optimizer.load_state_dict(optimizer.state_dict())
    for _ in range(2):
        (weight**2).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert weight.requires_grad and weight.grad is None
    return weight.detach()

kinds = [torch.optim.SGD, torch.optim.AdamW, torch.optim.Adam, torch.optim.Muon]
light = [trained(kind, **({"momentum": 0.9} if kind is torch.optim.SGD else {})) for kind in kinds]

heavy = ("torch._dynamo", "torch._inductor", "sympy", "triton", "scipy.signal", "matplotlib")
heavy += ("wandb", "deepspeed", "pandas", "sklearn", "plotly", "tensorboard", "transformers")
print("heavy:", [name for name in heavy if name in sys.modules])
print("instead:", [name for name, one in sys.modules.items() if isinstance(one, Later)])

# All of these import what was left out.
import lightning
import torchmetrics
from lightning.pytorch.utilities.compile import OptimizedModule
from torchvision.ops import roi_align

assert not isinstance(nn.Linear(2, 2), OptimizedModule)
figure, axes = torchmetrics.MeanMetric().plot(torch.tensor(0.5))
assert type(figure).__module__ == "matplotlib.figure"
compiled = torch.compile(nn.Linear(2, 2), backend="eager")
assert compiled(torch.ones(1, 2)).shape == (1, 2)
assert isinstance(compiled, OptimizedModule)
assert sys.modules["torchvision.ops.roi_align"].is_compile_supported("cpu") in (True, False)
assert roi_align(torch.ones(1, 1, 4, 4), [torch.tensor([[0.0, 0, 2, 2]])], 1).shape == (1, 1, 1, 1)
import scipy.signal
assert scipy.signal.windows.hamming(3).shape == (3,)
assert not isinstance(scipy.signal, Later)

# The same numbers with torch's own way through its optimizers.
again = [trained(kind, **({"momentum": 0.9} if kind is torch.optim.SGD else {})) for kind in kinds]
print("same:", [torch.equal(a, b) for a, b in zip(light, again)])

# A library that names more than is given imports the module itself.
wave = Later("wave", Error=None)
assert wave.Error is None and wave.open is __import__("wave").open
"""


def test_a_run_imports_no_compiler_and_whoever_needs_it_later_has_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "heavy: []",
        "instead: []",
        "same: [True, True, True, True]",
    ]


def test_a_library_that_names_more_than_is_known_is_imported_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "names_more.py").write_text("from wsgiref.util import FileWrapper\n")
    (tmp_path / "names_less.py").write_text("from wsgiref import given\n")
    (tmp_path / "is_wrong.py").write_text("import wsgiref.nothing\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "wsgiref"]:
        monkeypatch.delitem(sys.modules, name)

    def imported(name: str) -> ModuleType:
        instead = [Later("wsgiref", given=1)]
        execute_with(instead, lambda: importlib.import_module(name) and None)
        return sys.modules[name]

    assert imported("names_less").given == 1
    assert "wsgiref" not in sys.modules
    assert imported("names_more").FileWrapper is sys.modules["wsgiref.util"].FileWrapper
    with pytest.raises(ModuleNotFoundError, match=r"wsgiref\.nothing"):
        imported("is_wrong")
