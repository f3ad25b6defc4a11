"""Import torch, torchvision and Lightning without what a training never uses of theirs.

Half of what `import torchvision, lightning` takes goes into packages that are named in passing:
torch's compiler (torchvision asks it for one function, Lightning for a type, and every optimizer
tells it where it must not look), scipy.signal (torchmetrics adds one name to it) and matplotlib
(torchmetrics names two of its types). Something small takes their place while the library that
names them is imported. Whoever uses one of them later, as `strategy.compile` and the wrapper that
averages gradients over ranks do, imports it then; nothing but the time is different.
"""

import functools
import gc
import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any

COMPILER = "torch._dynamo"


def lighten_imports() -> None:
    """Let torch, torchvision, torchmetrics and Lightning be imported in this way from now on,
    whoever imports them first, and without a search for garbage meanwhile."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class Later(ModuleType):
    """In the place of a module that a library names while it is imported.

    Any attribute but the given ones is that of the real module, which is imported then.
    """

    def __init__(self, name: str, **given: Any) -> None:
        super().__init__(name)
        self.__dict__.update(given)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # Python's own questions about a module
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(self.real(), name)

    def real(self) -> ModuleType:
        """The module itself."""
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return importlib.import_module(self.__name__)


class _Finder(MetaPathFinder):
    """Finds the libraries where they are, and executes them in another way."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in HOW:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Lightly(spec.loader)
        return spec


class _Lightly(Loader):
    """Executes a module `HOW` it is said to, and hands over to its own loader."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self.loader
        is_outermost = gc.isenabled()
        gc.disable()  # modules live as long as the process
        try:
            HOW[module.__name__](lambda: self.loader.exec_module(module))
        finally:
            if is_outermost:
                gc.freeze()
                gc.enable()


def execute_with(instead: Sequence[Later], execute: Callable[[], None]) -> None:
    """Execute a module while these are in the place of the modules that they are named after,
    except of those that have been imported."""
    absent = [one for one in instead if one.__name__ not in sys.modules]
    sys.modules.update({one.__name__: one for one in absent})
    try:
        execute()
    except ImportError:  # another version of the library names more than we know of
        _take_away(absent)
        execute()
    finally:
        _take_away(absent)


def _take_away(modules: Sequence[Later]) -> None:
    for one in modules:
        if sys.modules.get(one.__name__) is one:
            del sys.modules[one.__name__]


# --- what the libraries take of them ---


def _compiler_utils() -> Later:
    """Of torchvision.ops.roi_align, which calls it in a detector."""

    def is_compile_supported(device_type: Any) -> bool:
        return utils.real().is_compile_supported(device_type)

    utils = Later(f"{COMPILER}.utils", is_compile_supported=is_compile_supported)
    return utils


def _compiler() -> Later:
    """Of Lightning and torchvision: a type to ask after, and a decorator of what is not to be
    compiled."""

    def disable(fn: Any = None, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(fn, FunctionType):
            return compiler.real().disable(fn, *args, **kwargs)
        made: list[Callable[..., Any]] = []

        @functools.wraps(fn)
        def function(*given: Any, **named: Any) -> Any:
            if _imported(COMPILER) is None:
                return fn(*given, **named)
            if not made:
                made.append(compiler.real().disable(fn, *args, **kwargs))
            return made[0](*given, **named)

        return function

    compiler = Later(
        COMPILER, OptimizedModule=_type_of(COMPILER, "OptimizedModule"), disable=disable
    )
    return compiler


def _triton() -> Later:
    """Of torch's counter of operations, which Lightning imports: a type to ask after."""
    return Later("triton.runtime.jit", JITFunction=_type_of("triton.runtime.jit", "JITFunction"))


def _type_of(module: str, name: str) -> type:
    """A type whose instances are those of the module's type; none, until that is imported."""

    class Asked(type):
        def __instancecheck__(cls, thing: Any) -> bool:
            real = _imported(module)
            return real is not None and isinstance(thing, getattr(real, name))

    return Asked(name, (), {})


def _imported(name: str) -> ModuleType | None:
    module = sys.modules.get(name)
    return None if isinstance(module, Later) else module


def _matplotlib() -> list[Later]:
    """Of torchmetrics.utilities.plot: types for its annotations, and a decorator of what plots."""

    @contextmanager
    def context(*args: Any, **kwargs: Any) -> Iterator[None]:
        with pyplot.real().style.context(*args, **kwargs):
            yield

    axes = Later("matplotlib.axes", Axes=object)
    pyplot = Later("matplotlib.pyplot", Figure=object, style=SimpleNamespace(context=context))
    colors = SimpleNamespace(Colormap=object)
    return [Later("matplotlib", axes=axes, colors=colors, pyplot=pyplot), axes, pyplot]


# --- the optimizers ---


def let_optimizers_wait() -> None:
    """Let torch's optimizers do without the compiler, which they only tell what to leave out, until
    something has imported it; from then on they run as torch has written them.

    A method that another version of torch makes in another way is left alone.
    """
    from torch.optim import SGD, Adam, AdamW, Muon, Optimizer

    for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
        _wait(Optimizer, name, "_disable_dynamo", lambda bare: bare)
    for kind in (SGD, Adam, AdamW, Muon):
        if "step" in vars(kind):
            _wait(kind, "step", "_use_grad_for_differentiable", _with_its_gradients)


def _wait(
    owner: type,
    name: str,
    made_by: str,
    without: Callable[[Callable[..., Any]], Callable[..., Any]],
) -> None:
    """Replace a method that `made_by` has wrapped by one that asks for the compiler only if it is
    there; else it runs `without` of what is inside."""
    whole = vars(owner)[name]
    if whole.__code__.co_qualname.partition(".")[0] != made_by:
        return
    plain = without(whole.__wrapped__)

    @functools.wraps(whole)
    def method(*args: Any, **kwargs: Any) -> Any:
        return (plain if _imported(COMPILER) is None else whole)(*args, **kwargs)

    setattr(owner, name, method)


def _with_its_gradients(step: Callable[..., Any]) -> Callable[..., Any]:
    from torch import set_grad_enabled

    def plain(self: Any, *args: Any, **kwargs: Any) -> Any:
        with set_grad_enabled(self.defaults["differentiable"]):
            return step(self, *args, **kwargs)

    return plain


# --- how each library is executed ---


def _with(instead: Callable[[], list[Later]]) -> Callable[[Callable[[], None]], None]:
    def execute_library(execute: Callable[[], None]) -> None:
        importlib.import_module("torch")  # not in the presence of what stands in for parts of it
        execute_with(instead(), execute)

    return execute_library


def _optimizers(execute: Callable[[], None]) -> None:
    execute()
    let_optimizers_wait()


HOW: dict[str, Callable[[Callable[[], None]], None]] = {
    "torch": lambda execute: execute(),
    "torch.optim": _optimizers,
    "torchvision": _with(lambda: [_compiler_utils(), _compiler()]),
    "torchvision.transforms.v2": _with(lambda: [_compiler()]),
    "torchmetrics": _with(lambda: [Later("scipy.signal", hamming=None), *_matplotlib()]),
    "torch.utils.flop_counter": _with(lambda: [_triton()]),
    "lightning": _with(lambda: [_compiler()]),
}
