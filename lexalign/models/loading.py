"""Models and tokenizers from wherever `model.path` leads, ready to train."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedModel

from lexalign.artifacts import files, fingerprint
from lexalign.artifacts.manifest import MANIFEST, find_damage, read_manifest
from lexalign.config import hardware
from lexalign.config.paths import Location, find_model
from lexalign.config.schema import Experiment
from lexalign.data import chat_template
from lexalign.errors import ConfigError, HubError, first_line
from lexalign.models import adapters
from lexalign.models.precision import get_bits, make_quantization_config, resolve_weight_dtype
from lexalign.models.weight_check import refuse_other_weights

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class LoadedModel:
    """A model to start from.

    `inherited` is the adapter of an earlier run: merged into `model` where the weights are kept as they are; for a quantized base it
    stays an adapter (merging would round it away) and is the one that is trained on.
    """

    model: PreTrainedModel | PeftModel
    tokenizer: Any
    base: dict[str, Any]
    inherited: Path | None


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """The files a model is made of: a base, and perhaps one adapter on it."""

    place: Location
    revision: str | None
    adapter: Path | None
    tokenizer: Path | None


def find_source(path: str, revision: str | None) -> ModelSource:
    """Follow a path to its base and adapter; raises ConfigError where it leads nowhere."""
    place = find_model(path)
    if place.kind == "missing":
        raise ConfigError(f"model.path={path}: {place.problem}")
    if place.kind in ("hub", "gguf"):
        return ModelSource(place=place, revision=revision, adapter=None, tokenizer=None)
    folder = place.path
    assert folder is not None
    if (folder / MANIFEST).is_file() and (broken := find_damage(folder)):
        raise ConfigError(f"model.path={path}: {broken}; train it again, or name another model")
    if not (folder / files.ADAPTER_CONFIG).is_file():
        return ModelSource(place=place, revision=None, adapter=None, tokenizer=folder)
    if (folder / MANIFEST).is_file():
        manifest = read_manifest(folder)
        if manifest["kind"] == "checkpoint":
            raise ConfigError(f"model.path={path}: is a checkpoint of a run that is not finished; go on with it: resume={path}")
        base = manifest["base"]
    else:
        config = adapters.read_adapter_config(folder)
        base = {"path": config["base_model_name_or_path"], "revision": config.get("revision")}
    below = find_source(base["path"], base["revision"])
    if (
        "files" in base
        and fingerprint.fingerprint_location(below.place, None, "models", digest=fingerprint.digest_bytes)["files"] != base["files"]
    ):
        raise ConfigError(f"model.path={path}: its base {base['path']} is not the model it was trained on (sha256 differs); train it again")
    if below.adapter is not None:
        raise ConfigError(f"model.path={path}: is an adapter on an adapter; merge {base['path']} into its base first with stage=export")
    return ModelSource(place=below.place, revision=below.revision, adapter=folder, tokenizer=folder)


def load_model(experiment: Experiment) -> LoadedModel:
    """The model an experiment starts from, its adapter already merged in, and its tokenizer."""
    settings = experiment.model
    assert settings.path is not None
    found = find_source(settings.path, settings.revision)
    bits = get_bits(experiment)
    model = load_base(experiment, found)
    inherited = found.adapter
    if inherited is not None:
        adapters.refuse_unstackable(inherited)
        if bits is None:
            adapters.untie_adapted_ends(inherited, model)
            model = PeftModel.from_pretrained(model, inherited, autocast_adapter_dtype=False).merge_and_unload()
            model.requires_grad_(True)  # PEFT froze the base; full training would train nothing
        else:
            refuse_other_shape(experiment, inherited)
            model = PeftModel.from_pretrained(model, inherited, is_trainable=True)
    tokenizer = load_tokenizer(experiment, found)
    base = {"path": found.place.name if found.place.kind != "run" else str(found.place.path), "revision": get_commit(model, found)}
    if found.place.kind != "hub":
        base |= fingerprint.fingerprint_location(found.place, None, "models")
    return LoadedModel(model=model, tokenizer=tokenizer, base=base, inherited=inherited)


def load_base(experiment: Experiment, found: ModelSource) -> PreTrainedModel:
    """The base model in the type and on the device that the experiment asks for."""
    settings, bits = experiment.model, get_bits(experiment)
    arguments: dict[str, Any] = {"dtype": resolve_weight_dtype(experiment), "trust_remote_code": settings.trust_remote_code}
    arguments["output_loading_info"] = True
    if settings.attention != "auto":
        arguments["attn_implementation"] = settings.attention
    if bits is not None:
        arguments["quantization_config"] = make_quantization_config(experiment)
        arguments["device_map"] = {"": hardware.resolve_device(experiment.hardware.device)}
    try:
        if found.place.kind == "gguf":
            assert found.place.path is not None
            if bits is not None:
                raise ConfigError(f"adapter.bits={bits}: a .gguf base is unpacked to train, not quantized again; type adapter=lora")
            # Left to itself, transformers keeps the blocks packed where it has a kernel for them: such weights do not train.
            arguments["quantization_config"] = GgufConfig(dequantize=True)
            model, info = AutoModelForCausalLM.from_pretrained(found.place.path.parent, gguf_file=found.place.path.name, **arguments)
        else:
            # A pickle can run code when it is loaded.
            model, info = AutoModelForCausalLM.from_pretrained(
                found.place.path or found.place.name, revision=found.revision or "main", use_safetensors=True, **arguments
            )
    except OSError as error:
        raise HubError(
            f"model.path={settings.path}: {first_line(error)}; fetch it with stage=download model.path={settings.path}"
        ) from error
    refuse_other_weights(found.place.name, info)
    if bits == 4:
        keep_quantized_weights(model)
    return model


def keep_quantized_weights(model: PreTrainedModel) -> None:
    """Leave 4-bit weights as they were quantized.

    On a CPU with bfloat16 instructions, bitsandbytes packs them anew, with coarser scales, the first time that a model in evaluation mode
    meets them, and for good; through what it computes with those, no gradient goes back.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def load_tokenizer(experiment: Experiment, found: ModelSource) -> Any:
    """The tokenizer beside the adapter or the model, or the one `model.tokenizer` names; with a pad token of its own."""
    settings = experiment.model
    if settings.tokenizer is not None:
        place, revision = find_model(settings.tokenizer), settings.tokenizer_revision
        if place.path is not None and (place.path / MANIFEST).is_file() and (broken := find_damage(place.path)):
            raise ConfigError(f"model.tokenizer={settings.tokenizer}: {broken}; name another tokenizer")
    elif found.tokenizer is not None and (found.tokenizer / "tokenizer_config.json").is_file():
        place, revision = Location(kind="folder", name=str(found.tokenizer), path=found.tokenizer), None
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
        chat_template.set_template(tokenizer, experiment.data.chat_template)
        chat_template.check_template(tokenizer, place.name)
    return tokenizer


def refuse_other_shape(experiment: Experiment, inherited: Path) -> None:
    """On a quantized base the earlier adapter itself is trained on, so a different shape would be ignored: refuse it."""
    adapter, config = experiment.adapter, adapters.read_adapter_config(inherited)
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


def get_commit(model: Any, found: ModelSource) -> str | None:
    """The hub commit that was loaded."""
    return getattr(model.config, "_commit_hash", None) or found.revision if found.place.kind == "hub" else None
