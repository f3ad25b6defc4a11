"""What makes several devices one: strategies and precision, and what ranks must agree on.

strategies.py   the config's devices, strategy and precision as the Trainer's arguments
zero.py         DeepSpeed's ZeRO; the one module that imports deepspeed
batchnorm.py    running statistics, equal on all ranks before somebody looks at them
micro_batch.py  data.micro_batch_size=auto: the largest that every GPU holds
"""

from clf.parallel.batchnorm import AgreeOnBatchNorm, average_batchnorm
from clf.parallel.micro_batch import FindMicroBatch
from clf.parallel.strategies import (
    resolve_accelerator,
    trainer_arguments,
    without_sigterm_broadcast,
    world_size,
)

__all__ = [
    "AgreeOnBatchNorm",
    "FindMicroBatch",
    "average_batchnorm",
    "resolve_accelerator",
    "trainer_arguments",
    "without_sigterm_broadcast",
    "world_size",
]
