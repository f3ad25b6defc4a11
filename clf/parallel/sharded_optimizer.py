"""A torch optimizer over weights that ZeRO has sharded, with the steps and state of a whole one.

ZeRO lays the parameters of a group end to end, cuts the line into a flat shard for each rank, and
lets the optimizer step over its shard as if that were one parameter. So every parameter would have
the state of the others: a count of steps, and moments that begin with them. Here the optimizer sees
its rank's fragment of each parameter instead, and does with each what it does with a whole one.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer


@dataclass(frozen=True)
class Fragment:
    """What a rank holds of a parameter: `length` numbers from `start` on of the flattened
    parameter, which begin at `place` in the flat shard."""

    parameter: nn.Parameter
    shard: Tensor
    place: int
    start: int
    length: int


class ShardedOptimizer(Optimizer):
    """What ZeRO takes for the optimizer. It has those groups of `whole` that have something to
    train; the dictionaries are the same, so a schedule of `whole` moves these too.

    An optimizer must treat each number of a parameter alone, as Adam and SGD do: one that needs a
    parameter's norm would take that of a fragment.

    Args:
        whole: an optimizer of whole parameters, before ZeRO shards them

    Raises:
        ValueError: nothing is to be trained
    """

    def __init__(self, whole: Optimizer) -> None:
        self.whole = whole
        self.parameters = [list(group["params"]) for group in whole.param_groups]
        every = [p for group in self.parameters for p in group]
        self.shapes = [p.shape for p in every]
        self.numbers = {id(p): number for number, p in enumerate(every)}
        self.left_out: set[int] = set()  # numbers of the parameters that have no gradient
        self._views: dict[int, tuple[Fragment, Tensor]] = {}  # by the parameter's number
        self._in_shard: dict[int, list[int]] = {}  # numbers of the parameters, by id of the shard
        trained = [
            group
            for group in whole.param_groups
            if any(p.requires_grad and p.numel() for p in group["params"])
        ]
        if not trained:
            raise ValueError("the optimizer has no parameter that requires a gradient")
        super().__init__(trained, whole.defaults)

    def divide(self, fragments: Iterable[Fragment]) -> None:
        """Step over this rank's fragments from now on."""
        for fragment in fragments:
            number = self.numbers[id(fragment.parameter)]
            view = fragment.shard.detach().narrow(0, fragment.place, fragment.length)
            self._views[number] = fragment, view.requires_grad_()
            self._in_shard.setdefault(id(fragment.shard), []).append(number)
        for number, (fragment, view) in self._views.items():
            # Some optimizers, such as Adagrad, have a state before the first step.
            if values := self.whole.state.pop(fragment.parameter, None):
                self.whole.state[view] = self._part_of(number, values)

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Step over the shards in the groups, which hold gradients."""
        for group in self.param_groups:
            for shard in group["params"]:
                self._step(group, shard)

    def _step(self, group: dict[str, Any], shard: Tensor) -> None:
        views = []
        for number in self._in_shard.get(id(shard), ()):
            fragment, view = self._views[number]
            views.append(view)
            if shard.grad is not None and number not in self.left_out:
                view.grad = shard.grad.narrow(0, fragment.place, fragment.length)
        shards, groups = group["params"], self.whole.param_groups
        group["params"], self.whole.param_groups = views, [group]
        try:
            self.whole.step()
        finally:
            group["params"], self.whole.param_groups = shards, groups
            for view in views:
                view.grad = None

    # --- the state, as torch's own optimizer of the whole parameters has it ---

    def whole_state(self, device: torch.device) -> dict[str, Any]:
        """`whole.state_dict()` as if nothing were sharded, on rank 0; other ranks have no "state".
        All ranks must call it.

        Args:
            device: where tensors are sent from rank to rank

        Raises:
            ValueError: the optimizer keeps tensors of another shape than the weights'
        """
        local = {
            number: self.whole.state[view]
            for number, (_, view) in self._views.items()
            if self.whole.state.get(view)
        }
        described = [{n: self._describe(n, values) for n, values in local.items()}]
        if dist.is_initialized():
            everywhere: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(everywhere, described[0])
            described = everywhere
        keys = {number: values for one in described for number, values in one.items()}
        state: dict[int, dict[str, Any]] = {}
        for number in sorted(keys):
            state[number] = {
                key: self._gathered(number, local.get(number, {}).get(key), value, device)
                if isinstance(value, torch.dtype)
                else value
                for key, value in keys[number].items()
            }
        is_first = not dist.is_initialized() or dist.get_rank() == 0
        return {"state": state if is_first else {}, "param_groups": self._numbered_groups()}

    def load_whole_state(self, saved: dict[str, Any]) -> None:
        """Take this rank's part of a state dict of whole parameters.

        Raises:
            ValueError: it is of other groups of parameters
        """
        lengths = [len(group["params"]) for group in saved["param_groups"]]
        if lengths != [len(group) for group in self.parameters]:
            raise ValueError(
                f"the checkpoint's optimizer has groups of {lengths} parameters, and this model's "
                f"has {[len(group) for group in self.parameters]}: they are different models"
            )
        groups = self.whole.param_groups
        shards = [group["params"] for group in groups]
        views = [
            [self._views[n][1] for p in group if (n := self.numbers[id(p)]) in self._views]
            for group in self.parameters
        ]
        places = {view: place for place, view in enumerate(v for part in views for v in part)}
        local = {
            places[view]: self._part_of(number, saved["state"][number])
            for number, (_, view) in self._views.items()
            if number in saved["state"]
        }
        settings = [
            {**group, "params": [places[view] for view in part]}
            for group, part in zip(saved["param_groups"], views, strict=True)
        ]
        for group, part in zip(groups, views, strict=True):
            group["params"] = part
        # Torch's own knows the type and the device of each value. It replaces the groups.
        self.whole.load_state_dict({"state": local, "param_groups": settings})
        for group, loaded, own in zip(groups, self.whole.param_groups, shards, strict=True):
            group |= loaded | {"params": own}
        self.whole.param_groups = groups

    def _numbered_groups(self) -> list[dict[str, Any]]:
        return [
            {**group, "params": [self.numbers[id(p)] for p in parameters]}
            for group, parameters in zip(self.whole.param_groups, self.parameters, strict=True)
        ]

    def _part_of(self, number: int, values: dict[str, Any]) -> dict[str, Any]:
        """This rank's part of a parameter's state."""
        fragment, shape = self._views[number][0], self.shapes[number]
        return {
            key: value.flatten().narrow(0, fragment.start, fragment.length).clone()
            if _is_of_shape(shape, key, value)
            else _copy(value)
            for key, value in values.items()
        }

    def _describe(self, number: int, values: dict[str, Any]) -> dict[str, Any]:
        """Of a parameter's state: the type of what is sharded, and the values of the rest."""
        described: dict[str, Any] = {}
        for key, value in values.items():
            if _is_of_shape(self._views[number][1].shape, key, value):
                described[key] = value.dtype
            elif isinstance(value, Tensor) and value.ndim:
                raise ValueError(
                    f"{type(self.whole).__name__} keeps '{key}' of shape {tuple(value.shape)} for "
                    f"weights of {tuple(self.shapes[number])}: ZeRO can shard only what has the "
                    "shape of the weights; set strategy=ddp"
                )
            else:
                described[key] = _copy(value)
        return described

    def _gathered(
        self, number: int, part: Tensor | None, dtype: torch.dtype, device: torch.device
    ) -> Tensor:
        whole = torch.zeros(self.shapes[number].numel(), dtype=dtype, device=device)
        if part is not None:
            fragment = self._views[number][0]
            whole.narrow(0, fragment.start, fragment.length).copy_(part)
        if dist.is_initialized():
            dist.reduce(whole, 0)
        return whole.view(self.shapes[number]).cpu()


def _is_of_shape(shape: torch.Size, key: str, value: Any) -> bool:
    """Whether a value holds a number for each of the weights; torch keeps the count of steps of a
    parameter without dimensions in a tensor of the same shape."""
    return isinstance(value, Tensor) and value.shape == shape and key != "step"


def _copy(value: Any) -> Any:
    return value.detach().cpu().clone() if isinstance(value, Tensor) else value
