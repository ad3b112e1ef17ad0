"""A trained model on the disk: an adapter on its base, or whole weights, with the tokenizer."""

from pathlib import Path
from typing import Any

from peft import PeftModel

from lexalign.artifacts import disk, files
from lexalign.artifacts.manifest import write_manifest
from lexalign.distributed import collectives, sharding
from lexalign.models import adapters
from lexalign.models.loading import LoadedModel


def save_model(loaded: LoadedModel, model: Any, artifact: Path, facts: dict[str, Any]) -> None:
    """Write the trained model: an adapter on the original base, or whole weights; its tokenizer; last, the manifest.

    Of several processes the first one writes; all of them call it, because each may hold a part of the weights.
    """
    state = sharding.gather_weights(model)
    if collectives.is_main():
        write_model(loaded, model, artifact, facts, {} if state is None else {"state_dict": state})
    collectives.barrier()


def write_model(loaded: LoadedModel, model: Any, artifact: Path, facts: dict[str, Any], weights: dict[str, Any]) -> None:
    """What `save` does, in the process that writes; `weights` where the model itself does not hold them whole."""
    size = sum(sharding.get_full_size(weight) for weight in model.parameters() if weight.requires_grad)
    with files.write_folder(artifact, replace=True) as aside, disk.require_space(size, artifact.parent, what="the artifact"):
        if isinstance(model, PeftModel):
            # Left to itself, PEFT writes the base's embeddings into an adapter that is on one of them.
            model.save_pretrained(aside, selected_adapters=["default"], save_embedding_layers=False, **weights)
            adapters.sort_target_modules(aside)
            # merged: the new adapter was trained on top of the old one. Not merged (quantized): it is the old one, trained on.
            if loaded.inherited is not None and not isinstance(loaded.model, PeftModel):
                adapters.stack_adapters(loaded.inherited, aside)
            if (config := getattr(model.get_base_model(), "generation_config", None)) is not None:
                config.save_pretrained(aside)  # where answers end, for whoever loads base and adapter
        else:
            model.save_pretrained(aside, **weights)
        loaded.tokenizer.save_pretrained(aside)
        (aside / "README.md").unlink(missing_ok=True)  # PEFT's empty template
        kind = "adapter" if isinstance(model, PeftModel) else "model"
        write_manifest(aside, {"kind": kind, "base": loaded.base, **facts})
