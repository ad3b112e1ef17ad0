"""For tests, on PYTHONPATH: in each process of a run, accelerate sets up over gloo on the CPU what it otherwise sets up between GPUs only
(FSDP2, DeepSpeed). All that is done with it then is theirs and ours."""

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
