"""Load a model as it was trained, or with its adapter merged into plain weights."""

import dataclasses
import logging
from typing import Any

import torch
from peft import PeftModel

from lexalign.artifacts import files
from lexalign.config import hardware
from lexalign.errors import ConfigError
from lexalign.export.source import ExportSource, Way
from lexalign.models import adapters, loading

log = logging.getLogger(__name__)
QUANTIZED = ("Params4bit", "Int8Params")
"""Classes of the quantized weights of bitsandbytes."""


def load_as_trained(subject: ExportSource, tokenizer: Any) -> Any:
    """Load the model as it was trained: the base, quantized if it was quantized then, and the adapter."""
    model: Any = load_base_model(subject, tokenizer)
    if subject.source.adapter is not None:
        model = attach_adapter(model, subject)
    return move_to_device(model, subject).eval()


def load_merged(subject: ExportSource, way: Way, tokenizer: Any) -> Any:
    """Load the model in plain weights of the exported type. Weight and update are added in float32 and rounded once."""
    if way == "unmerged":
        model = loading.load_base(subject.experiment, subject.source)
    else:
        model = load_base_model(subject, tokenizer, plain=way == "original")
        if way == "dequantized":
            model = dequantize(model)
        model = attach_adapter(model.float(), subject).merge_and_unload()
        untie_where_apart(model)
    dtype = getattr(torch, subject.dtype)
    for weight in model.parameters():  # not model.to(dtype): rotary frequencies keep their type, as after loading a model
        weight.data = weight.data.to(dtype)
    model.config.dtype = dtype
    return move_to_device(model, subject).eval()


def load_base_model(subject: ExportSource, tokenizer: Any, *, plain: bool = False) -> Any:
    """Load the base as in training, or `plain` (float32, not quantized), with an embedding for each token that the adapter has."""
    experiment = subject.experiment
    if plain:
        experiment = dataclasses.replace(experiment, adapter=None, model=dataclasses.replace(experiment.model, dtype="float32"))
    model = loading.load_base(experiment, subject.source)
    if subject.source.adapter is not None:
        fit_vocabulary(model, subject, tokenizer)
    return model


def fit_vocabulary(model: Any, subject: ExportSource, tokenizer: Any) -> None:
    """Resize the base to the number of the adapter's embeddings. Raises ConfigError if a token would have no embedding."""
    folder = subject.source.adapter
    assert folder is not None
    rows = model.get_input_embeddings().weight.shape[0]
    adapter_rows = adapters.get_vocabulary_size(folder, model)
    if adapter_rows is not None and adapter_rows != rows:
        log.info("The adapter has embeddings of its own for %d tokens; the base, which has %d, is resized", adapter_rows, rows)
        model.resize_token_embeddings(adapter_rows, mean_resizing=False)
        rows = adapter_rows
    if len(tokenizer) > rows:
        raise ConfigError(
            f"{folder}: its tokenizer has {len(tokenizer)} tokens and its base {rows} embeddings, and the adapter holds none for the added "
            "ones; save it again with save_embedding_layers=True, or name the resized base's folder as base_model_name_or_path in "
            f"{files.ADAPTER_CONFIG}"
        )


def attach_adapter(model: Any, subject: ExportSource) -> PeftModel:
    """Attach the adapter to the base. Raises ConfigError if the adapter belongs to another base."""
    folder = subject.source.adapter
    assert folder is not None
    adapters.refuse_other_base(folder, model, subject.source.place.name)
    adapters.untie_adapted_ends(folder, model)
    return PeftModel.from_pretrained(model, folder, autocast_adapter_dtype=subject.bits is not None)


def dequantize(model: Any) -> Any:
    """Convert a quantized model to the float32 weights that its bits represent."""
    model = model.dequantize(torch.float32)
    for name in (
        "is_loaded_in_4bit",
        "is_loaded_in_8bit",
        "quantization_method",
    ):  # dequantize does not remove them, and saving and moving read them
        vars(model).pop(name, None)
    return model


def untie_where_apart(model: Any) -> None:
    """Untie the embeddings in the configuration if the adapter changed only one of the two. Otherwise loading would tie them again."""
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head is None or not model.config.get_text_config().tie_word_embeddings:
        return
    if head.weight is not embeddings.weight and not torch.equal(head.weight, embeddings.weight):
        log.info("The adapter changed only one of the tied embeddings; they are exported untied")
        model.config.tie_word_embeddings = model.config.get_text_config().tie_word_embeddings = False


def move_to_device(model: Any, subject: ExportSource) -> Any:
    """Move the model to its device. A quantized model is already there."""
    if any(type(weight).__name__ in QUANTIZED for weight in model.parameters()):
        return model
    return model.to(hardware.resolve_device(subject.experiment.hardware.device))
