"""Python imports this at the start of each process of a sharded run (tests put the folder on PYTHONPATH).

accelerate sets up FSDP2 and DeepSpeed between GPUs only. Here it does so over gloo on the CPU too; everything else is unchanged.
"""

import os

import file_guard

file_guard.install()

if "TORCHELASTIC_RUN_ID" in os.environ:
    from accelerate import state
    from accelerate.utils import DistributedType

    partial, whole = state.PartialState.__init__, state.AcceleratorState.__init__

    def among_processes(self, cpu=False, **kwargs):
        partial(self, cpu, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    def of_all(self, mixed_precision=None, cpu=False, *args, **kwargs):
        whole(self, mixed_precision, False, *args, **kwargs)

    state.PartialState.__init__, state.AcceleratorState.__init__ = among_processes, of_all
