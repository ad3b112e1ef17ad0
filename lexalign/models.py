"""Models and tokenizers from wherever `model.path` leads, ready to train, and back to the disk as an artifact."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, GgufConfig, PreTrainedModel

from lexalign import adapters, artifacts, hardware, identity
from lexalign.checkpoints import disk
from lexalign.data import templates
from lexalign.errors import ConfigError, HubError, first_line
from lexalign.locate import Place, find_model
from lexalign.ranks import group, sharding
from lexalign.schema import Experiment

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Loaded:
    """A model to start from.

    `inherited` is the adapter of an earlier run: merged into `model` where the weights are kept as they are; for a quantized base it
    stays an adapter (merging would round it away) and is the one that is trained on.
    """

    model: PreTrainedModel | PeftModel
    tokenizer: Any
    base: dict[str, Any]
    inherited: Path | None


@dataclass(frozen=True, kw_only=True)
class Source:
    """The files a model is made of: a base, and perhaps one adapter on it."""

    place: Place
    revision: str | None
    adapter: Path | None
    tokenizer: Path | None


def source(path: str, revision: str | None) -> Source:
    """Follow a path to its base and adapter; raises ConfigError where it leads nowhere."""
    place = find_model(path)
    if place.kind == "missing":
        raise ConfigError(f"model.path={path}: {place.problem}")
    if place.kind in ("hub", "gguf"):
        return Source(place=place, revision=revision, adapter=None, tokenizer=None)
    folder = place.path
    assert folder is not None
    if not (folder / artifacts.ADAPTER_CONFIG).is_file():
        return Source(place=place, revision=None, adapter=None, tokenizer=folder)
    if (folder / "manifest.json").is_file():
        broken = artifacts.damage(folder)
        if broken:
            raise ConfigError(f"model.path={path}: {broken}; train it again, or name another model")
        manifest = artifacts.read_manifest(folder)
        if manifest["kind"] == "checkpoint":
            raise ConfigError(f"model.path={path}: is a checkpoint of a run that is not finished; go on with it: resume={path}")
        base = manifest["base"]
    else:
        config = adapters.read_config(folder)
        base = {"path": config["base_model_name_or_path"], "revision": config.get("revision")}
    below = source(base["path"], base["revision"])
    if "files" in base and identity.place_identity(below.place, None, "models")["files"] != base["files"]:
        raise ConfigError(f"model.path={path}: its base {base['path']} is not the model it was trained on (sha256 differs); train it again")
    if below.adapter is not None:
        raise ConfigError(f"model.path={path}: is an adapter on an adapter; merge {base['path']} into its base first with stage=export")
    return Source(place=below.place, revision=below.revision, adapter=folder, tokenizer=folder)


def load(experiment: Experiment) -> Loaded:
    """The model an experiment starts from, its adapter already merged in, and its tokenizer."""
    settings = experiment.model
    assert settings.path is not None
    found = source(settings.path, settings.revision)
    bits = bits_of(experiment)
    model = load_base(experiment, found)
    inherited = found.adapter
    if inherited is not None:
        adapters.refuse_unstackable(inherited)
        if bits is None:
            model = PeftModel.from_pretrained(model, inherited, autocast_adapter_dtype=False).merge_and_unload()
            model.requires_grad_(True)  # PEFT froze the base; full training would train nothing
        else:
            refuse_other_shape(experiment, inherited)
            model = PeftModel.from_pretrained(model, inherited, is_trainable=True)
    tokenizer = load_tokenizer(experiment, found)
    base = {"path": found.place.name if found.place.kind != "run" else str(found.place.path), "revision": commit_of(model, found)}
    if found.place.kind != "hub":
        base |= identity.place_identity(found.place, None, "models")
    return Loaded(model=model, tokenizer=tokenizer, base=base, inherited=inherited)


def load_base(experiment: Experiment, found: Source) -> PreTrainedModel:
    """The base model in the type and on the device that the experiment asks for."""
    settings, bits = experiment.model, bits_of(experiment)
    arguments: dict[str, Any] = {"dtype": weight_dtype(experiment), "trust_remote_code": settings.trust_remote_code}
    if settings.attention != "auto":
        arguments["attn_implementation"] = settings.attention
    if bits is not None:
        arguments["quantization_config"] = quantization(experiment)
        arguments["device_map"] = {"": hardware.resolve_device(experiment.hardware.device)}
    try:
        if found.place.kind == "gguf":
            assert found.place.path is not None
            if bits is not None:
                raise ConfigError(f"adapter.bits={bits}: a .gguf base is unpacked to train, not quantized again; type adapter=lora")
            # Left to itself, transformers keeps the blocks packed where it has a kernel for them: such weights do not train.
            arguments["quantization_config"] = GgufConfig(dequantize=True)
            model = AutoModelForCausalLM.from_pretrained(found.place.path.parent, gguf_file=found.place.path.name, **arguments)
        else:
            # A pickle can run code when it is loaded.
            model = AutoModelForCausalLM.from_pretrained(
                found.place.path or found.place.name, revision=found.revision or "main", use_safetensors=True, **arguments
            )
    except OSError as error:
        raise HubError(
            f"model.path={settings.path}: {first_line(error)}; fetch it with stage=download model.path={settings.path}"
        ) from error
    if bits == 4:
        keep_weights(model)
    return model


def keep_weights(model: PreTrainedModel) -> None:
    """Leave 4-bit weights as they were quantized.

    On a CPU with bfloat16 instructions, bitsandbytes packs them anew, with coarser scales, the first time that a model in evaluation mode
    meets them, and for good; through what it computes with those, no gradient goes back.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def bits_of(experiment: Experiment) -> int | None:
    """The quantization of the base; None where it is kept as it is, as where nothing is trained."""
    return experiment.adapter.bits if experiment.adapter is not None else None


def quantization(experiment: Experiment) -> BitsAndBytesConfig:
    """bitsandbytes: nf4 with double quantization, or int8."""
    if bits_of(experiment) == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=weight_dtype(experiment)
    )


def weight_dtype(experiment: Experiment) -> torch.dtype:
    """`model.dtype`; auto = the type the step computes in, so that nothing is cast at each step: bfloat16 where the precision comes to
    bf16 and only an adapter is trained, float32 elsewhere."""
    named = experiment.model.dtype
    if named != "auto":
        return getattr(torch, named)
    full = experiment.adapter is not None and experiment.adapter.kind == "full"
    precision = resolve_precision(experiment.hardware.precision, hardware.resolve_device(experiment.hardware.device))
    return torch.bfloat16 if precision == "bf16" and not full else torch.float32


def resolve_precision(wanted: str, device: str) -> str:
    """`hardware.precision`; auto = bf16 on a CUDA device that has it, fp32 elsewhere."""
    if wanted != "auto":
        return wanted
    return "bf16" if device == "cuda" and torch.cuda.is_bf16_supported() else "fp32"


def arithmetic(experiment: Experiment) -> torch.autocast:
    """What a training step's forward is computed within: autocast in mixed precision. accelerate puts it around a model only when training
    begins; what is tried or measured at other times is to be computed alike."""
    device = hardware.resolve_device(experiment.hardware.device)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(resolve_precision(experiment.hardware.precision, device))
    return torch.autocast(device, dtype=dtype, enabled=dtype is not None)


def load_tokenizer(experiment: Experiment, found: Source) -> Any:
    """The tokenizer beside the adapter or the model, or the one `model.tokenizer` names; with a pad token of its own."""
    settings = experiment.model
    if settings.tokenizer is not None:
        place, revision = find_model(settings.tokenizer), settings.tokenizer_revision
    elif found.tokenizer is not None and (found.tokenizer / "tokenizer_config.json").is_file():
        place, revision = Place(kind="folder", name=str(found.tokenizer), path=found.tokenizer), None
    else:
        place, revision = found.place, found.revision
    try:
        if place.kind == "gguf":
            assert place.path is not None
            tokenizer = AutoTokenizer.from_pretrained(place.path.parent, gguf_file=place.path.name)
        else:
            tokenizer = AutoTokenizer.from_pretrained(
                place.path or place.name, revision=revision or "main", trust_remote_code=settings.trust_remote_code
            )
    except (OSError, ValueError) as error:
        raise HubError(f"the tokenizer of {place.name}: {first_line(error)}; name one with model.tokenizer=<hub id or folder>") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
        log.warning("The tokenizer has no pad token; EOS stands in for it (masks tell them apart)")
    if experiment.data.chat_template != "never":
        templates.check(tokenizer, place.name)
    return tokenizer


def refuse_other_shape(experiment: Experiment, inherited: Path) -> None:
    """On a quantized base the earlier adapter itself is trained on, so a different shape would be ignored: refuse it."""
    adapter, config = experiment.adapter, adapters.read_config(inherited)
    assert adapter is not None
    different = [
        f"adapter.{ours}={config[theirs]}"
        for ours, theirs in (("rank", "r"), ("alpha", "lora_alpha"), ("dropout", "lora_dropout"))
        if getattr(adapter, ours) != config[theirs]
    ]
    named = adapter.target_modules
    if isinstance(named, list) and set(named) != set(config["target_modules"]):
        different.append(f"adapter.target_modules=[{','.join(sorted(config['target_modules']))}]")
    if different:
        raise ConfigError(f"adapter: a quantized base keeps the adapter of {inherited.parent} and trains it on; type {' '.join(different)}")


def commit_of(model: Any, found: Source) -> str | None:
    """The hub commit that was loaded."""
    return getattr(model.config, "_commit_hash", None) or found.revision if found.place.kind == "hub" else None


def save(loaded: Loaded, model: Any, artifact: Path, facts: dict[str, Any]) -> None:
    """Write the trained model: an adapter on the original base, or whole weights; its tokenizer; last, the manifest.

    Of several processes the first one writes; all of them call it, because each may hold a part of the weights.
    """
    state = sharding.whole(model)
    if group.first():
        write(loaded, model, artifact, facts, {} if state is None else {"state_dict": state})
    group.wait()


def write(loaded: Loaded, model: Any, artifact: Path, facts: dict[str, Any], weights: dict[str, Any]) -> None:
    """What `save` does, in the process that writes; `weights` where the model itself does not hold them whole."""
    size = sum(sharding.size(weight) for weight in model.parameters() if weight.requires_grad)
    with artifacts.whole_folder(artifact, replace=True) as aside, disk.room_for(size, artifact.parent, what="the artifact"):
        if isinstance(model, PeftModel):
            model.save_pretrained(aside, selected_adapters=["default"], **weights)
            adapters.order_config(aside)
            # merged: the new adapter was trained on top of the old one. Not merged (quantized): it is the old one, trained on.
            if loaded.inherited is not None and not isinstance(loaded.model, PeftModel):
                adapters.stack(loaded.inherited, aside)
        else:
            model.save_pretrained(aside, **weights)
        loaded.tokenizer.save_pretrained(aside)
        (aside / "README.md").unlink(missing_ok=True)  # PEFT's empty template
        kind = "adapter" if isinstance(model, PeftModel) else "model"
        artifacts.write_manifest(aside, {"kind": kind, "base": loaded.base, **facts})
