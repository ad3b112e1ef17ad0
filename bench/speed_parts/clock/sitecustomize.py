"""Put on PYTHONPATH of every arm alike: notes the wall and CPU time of each optimizer step, the losses, the rows that pass without gradient
(the reference's), and the peak of memory. Nothing is imported for it; it waits for transformers and peft to be."""

import atexit
import importlib.abc
import importlib.util
import json
import os
import resource
import sys
import time

FOUND = {"steps": [], "losses": [], "norms": [], "tokens": [], "reference_rows": 0}
OUT = os.environ.get("BENCH_CLOCK")


def watch_steps(module):
    original_end, original_log = module.CallbackHandler.on_step_end, module.CallbackHandler.on_log

    def on_step_end(self, args, state, control):
        FOUND["steps"].append([time.time() - float(os.environ["BENCH_STARTED"]), cpu()])
        return original_end(self, args, state, control)

    def on_log(self, args, state, control, logs):
        if "loss" in logs:
            FOUND["losses"].append(float(logs["loss"]))
            FOUND["norms"].append(float(logs["grad_norm"]))
            FOUND["tokens"].append(float(logs.get("num_tokens", "nan")))  # LLaMA-Factory has none
            write()  # a forked job leaves without a word
        return original_log(self, args, state, control, logs)

    module.CallbackHandler.on_step_end, module.CallbackHandler.on_log = on_step_end, on_log


def watch_reference(module):
    import torch

    original = module.PeftModelForCausalLM.forward

    def forward(self, input_ids=None, *args, **kwargs):
        if not torch.is_grad_enabled() and input_ids is not None:
            FOUND["reference_rows"] += int(input_ids.shape[0])
        return original(self, input_ids, *args, **kwargs)

    module.PeftModelForCausalLM.forward = forward


WATCHED = {"transformers.trainer_callback": watch_steps, "peft.peft_model": watch_reference}


class Finder(importlib.abc.MetaPathFinder):
    """Lets the usual finders find, and adds a step after the import of a watched module."""

    def find_spec(self, name, path, target=None):
        if name not in WATCHED:
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        execute, then = spec.loader.exec_module, WATCHED[name]

        def exec_module(module):
            execute(module)
            then(module)

        spec.loader.exec_module = exec_module
        return spec


def cpu():
    """CPU seconds of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def write():
    if FOUND["steps"]:
        FOUND["peak_kb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            FOUND["peak_kb"] = torch.cuda.max_memory_allocated() // 1024
        with open(f"{OUT}.{os.getpid()}", "w") as file:
            json.dump(FOUND, file)


if OUT:
    sys.meta_path.insert(0, Finder())
    atexit.register(write)
