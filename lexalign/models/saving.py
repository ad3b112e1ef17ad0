"""Save a trained model: an adapter on its base, or whole weights, with the tokenizer."""

from pathlib import Path
from typing import Any

from peft import PeftModel

from lexalign.artifacts import disk, files
from lexalign.artifacts.manifest import write_manifest
from lexalign.distributed import collectives, sharding
from lexalign.models import adapters
from lexalign.models.loading import LoadedModel


def save_model(loaded: LoadedModel, model: Any, artifact: Path, facts: dict[str, Any]) -> None:
    """Write the trained model (an adapter on the original base, or whole weights), its tokenizer, and at last the manifest.

    All processes call this, because each may hold a part of the weights. Only the first process writes.
    """
    state = sharding.gather_weights(model)
    if collectives.is_main():
        write_model(loaded, model, artifact, facts, {} if state is None else {"state_dict": state})
    collectives.barrier()


def write_model(loaded: LoadedModel, model: Any, artifact: Path, facts: dict[str, Any], weights: dict[str, Any]) -> None:
    """Write the files of `save_model`, in the first process. `weights` holds the state dict if the model does not hold whole weights."""
    size = sum(sharding.get_full_size(weight) for weight in model.parameters() if weight.requires_grad)
    with files.write_folder(artifact, replace=True) as folder, disk.require_space(size, artifact.parent, what="the artifact"):
        if isinstance(model, PeftModel):
            # By default, PEFT writes the base's embeddings into an adapter that changes one of them.
            model.save_pretrained(folder, selected_adapters=["default"], save_embedding_layers=False, **weights)
            adapters.sort_target_modules(folder)
            # If the old adapter was merged, the new one was trained on top of it. If not (quantized), it is the old one, trained further.
            if loaded.inherited is not None and not isinstance(loaded.model, PeftModel):
                adapters.stack_adapters(loaded.inherited, folder)
            if (config := getattr(model.get_base_model(), "generation_config", None)) is not None:
                config.save_pretrained(folder)  # the end tokens, for users who load base and adapter
        else:
            model.save_pretrained(folder, **weights)
        loaded.tokenizer.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty template
        kind = "adapter" if isinstance(model, PeftModel) else "model"
        write_manifest(folder, {"kind": kind, "base": loaded.base, **facts})
