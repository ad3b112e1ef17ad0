"""One of two processes that hold the shards of a model: what `fully_shard` makes of it, without a GPU."""

import os
import sys
from pathlib import Path

from lexalign.models.saving import save_model


def main(number: int, port: int, start: Path, artifact: Path, trained: str) -> None:
    """Shard the model, change every trained weight by 1, save it as a run does."""
    os.environ |= {"RANK": str(number), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    import torch
    from peft import LoraConfig, get_peft_model
    from torch import distributed
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from lexalign.distributed import collectives, sharding
    from lexalign.models import loading

    torch.manual_seed(0)
    distributed.init_process_group("gloo")
    model = AutoModelForCausalLM.from_pretrained(start)
    base = model
    if trained == "adapter":
        model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    for layer in base.model.layers:
        fully_shard(layer)
    fully_shard(model)
    held = sum(weight.to_local().numel() for weight in model.parameters())
    assert all(isinstance(weight, DTensor) for weight in model.parameters()) and held < 0.6 * sum(w.numel() for w in model.parameters())
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(1.0)
    whole = sharding.gather_weights(model)
    assert bool(whole) == collectives.is_main(), "the first process alone has all of it"
    loaded = loading.LoadedModel(
        model=base, tokenizer=AutoTokenizer.from_pretrained(start), base={"path": str(start), "revision": None}, inherited=None
    )
    save_model(loaded, model, artifact, {})
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]), sys.argv[5])
