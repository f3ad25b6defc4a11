"""What makes several devices act as one: strategies, precision, and what the ranks must agree on.

strategies.py            the devices, strategy and precision of a config as Trainer arguments
zero.py                  DeepSpeed's ZeRO as a Lightning strategy
weights.py               this rank's memory of the weights, whole or sharded
batchnorm.py             running statistics that are equal on all ranks wherever they are used
micro_batch.py           data.micro_batch_size=auto: the largest one that every GPU can hold
light_imports.py         torch, torchvision and Lightning without what a training does not use
lightning_internals.py   the one place that touches private parts of Lightning
deepspeed_internals.py   the one place that touches private parts of DeepSpeed
"""
