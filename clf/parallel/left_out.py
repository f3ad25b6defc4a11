"""Parameters that a step leaves out, under ZeRO: a layer that is skipped at random, or never used.

Torch's optimizers leave such a parameter alone: no decay, no moments, no count. DeepSpeed takes its
gradient for zero (in stage 3, for that of an earlier step); and if ranks leave out different ones,
it adds up gradients of different parameters, since it sends them in the order in which they come.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from clf.parallel import deepspeed_internals as internals


class LeftOut:
    """Watches which parameters get a gradient, and tells the optimizer which did not on any rank.

    In the first step the ranks tell each other. If all of them used every parameter, DeepSpeed goes
    on as it is, and a rank that leaves one out later raises an error. Otherwise, or with `always`,
    they do so in each step; every rank then sends a gradient of each parameter, zero where it has
    none, in the same order. That order decides in which one DeepSpeed adds up, so a run that goes
    on knows from its checkpoint what was decided, and does not begin with such a step again.

    Args:
        zero_optimizer: DeepSpeed's, of which methods are replaced
        optimizer: the `ShardedOptimizer` in it
        names: of the parameters, by id, for messages
        device: of the ranks' messages
        always: the setting `strategy.find_unused_parameters`
    """

    def __init__(
        self,
        zero_optimizer: Any,
        optimizer: Any,
        stage_3: bool,
        names: dict[int, str],
        device: torch.device,
        always: bool,
    ) -> None:
        self.optimizer, self.names, self.device, self.always = optimizer, names, device, always
        self.zero, self.stage_3 = zero_optimizer, stage_3
        # Whether gradients are reduced after the last micro-batch of a step alone
        self.once_a_step = not (stage_3 or zero_optimizer.partition_gradients)
        self.groups = internals.groups_of(zero_optimizer, stage_3)
        self.told = True  # whether the ranks tell each other in this step
        self.decided_for: list[int] = []  # ids of the trained parameters that `told` holds for
        self.used: set[int] = set()  # ids of parameters, in this step on this rank
        self.used_now: set[int] = set()  # in this micro-batch
        self.incomplete = False  # whether a micro-batch of this step left one out on this rank
        self.reduce = zero_optimizer.reduce_ready_partitions_and_remove_grads
        self.epilogue = zero_optimizer.overlapping_partition_gradients_reduce_epilogue
        self.step = zero_optimizer.step
        zero_optimizer.reduce_ready_partitions_and_remove_grads = self.on_gradient
        zero_optimizer.overlapping_partition_gradients_reduce_epilogue = self.on_backward_end
        zero_optimizer.step = self.on_step

    def state_dict(self) -> dict[str, Any]:
        """What the ranks decided: "told", and for which parameters, by their names."""
        return {"told": self.told, "parameters": [self.names[key] for key in self.decided_for]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        keys = {name: key for key, name in self.names.items()}
        if all(name in keys for name in state["parameters"]):  # else the first step decides
            self.told = self.always or state["told"]
            self.decided_for = [keys[name] for name in state["parameters"]]

    def trained(self) -> dict[int, tuple[nn.Parameter, int]]:
        """The parameters that require a gradient now, by id, each with the number of its group."""
        return {
            id(p): (p, number)
            for number, group in enumerate(self.groups)
            for p in group
            if p.requires_grad
        }

    def on_gradient(self, parameter: nn.Parameter, *group_number: int) -> None:
        """In place of DeepSpeed's reduction of a parameter that has got its gradient."""
        if self.once_a_step and not internals.ends_a_step(self.zero):
            return
        if not self.used_now and list(self.trained()) != self.decided_for:
            self.told = True
        self.used_now.add(id(parameter))
        if not self.told:
            self.reduce(parameter, *group_number)

    def on_backward_end(self) -> None:
        """In place of DeepSpeed's reduction of what is left after a backward pass."""
        trained = self.trained()
        missing = [p for key, (p, _) in trained.items() if key not in self.used_now]
        if self.told:
            self._reduce_all(trained)
        elif missing:
            names = [self.names[id(p)] for p in missing]
            # A rule refuses the setting under stage 3.
            also = " and strategy=deepspeed_zero2" if self.stage_3 else ""
            raise RuntimeError(
                f"a step left {first_few(names)} without a gradient, and the first step did "
                f"not; set strategy.find_unused_parameters=true{also}: the ranks then tell each "
                "other, once a step, which parameters they used"
            )
        self.incomplete |= bool(missing)
        self.used |= self.used_now
        self.used_now = set()
        self.epilogue()

    def _reduce_all(self, trained: dict[int, tuple[nn.Parameter, int]]) -> None:
        if not self.stage_3:
            self.zero.setup_buckets()  # no gradient has come that would have done it
        for key, (parameter, group_number) in trained.items():
            if parameter.grad is None:
                internals.give_zero_gradient(parameter)
            else:
                self.used_now.add(key)
            self.reduce(parameter, *(() if self.stage_3 else (group_number,)))

    def on_step(self, *args: Any, **kwargs: Any) -> Any:
        """In place of DeepSpeed's step."""
        trained = list(self.trained())
        absent = self._absent(trained) if self.told else set()
        frozen = self.optimizer.numbers.keys() - trained
        self.optimizer.left_out = {self.optimizer.numbers[key] for key in frozen | absent}
        self.used, self.incomplete = set(), False
        return self.step(*args, **kwargs)

    def _absent(self, trained: list[int]) -> set[int]:
        """Ids of those that no rank used in this step."""
        flags = [*(key in self.used for key in trained), self.incomplete]
        anywhere = torch.tensor(flags, dtype=torch.uint8, device=self.device)
        dist.all_reduce(anywhere, dist.ReduceOp.MAX)
        decided = trained == self.decided_for
        if decided and not self.incomplete:
            return set()  # this rank used all: it need not wait for the others' answer
        *used, incomplete = anywhere.tolist()
        if not decided:
            self.told, self.decided_for = self.always or bool(incomplete), trained
        return {key for key, one in zip(trained, used, strict=True) if not one}


def first_few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if names[3:] else "")
