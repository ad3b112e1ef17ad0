"""Load the model and the tokenizer that `model.path` names, ready to train."""

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

    `inherited` is the adapter of an earlier run. On a base that is not quantized it is merged into `model`. On a quantized base it stays an
    adapter (merging would lose it to rounding), and its training continues.
    """

    model: PreTrainedModel | PeftModel
    tokenizer: Any
    base: dict[str, Any]
    inherited: Path | None


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """The files of a model: a base, and optionally one adapter on it."""

    place: Location
    revision: str | None
    adapter: Path | None
    tokenizer: Path | None


def find_source(path: str, revision: str | None) -> ModelSource:
    """Find the base and the adapter of a path; raises ConfigError if there is no model."""
    place = find_model(path)
    if place.kind == "missing":
        raise ConfigError(f"model.path={path}: {place.problem}")
    if place.kind in ("hub", "gguf"):
        return ModelSource(place=place, revision=revision, adapter=None, tokenizer=None)
    folder = place.path
    assert folder is not None
    if (folder / MANIFEST).is_file() and (damage := find_damage(folder)):
        raise ConfigError(f"model.path={path}: {damage}; train it again, or name another model")
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
    base_source = find_source(base["path"], base["revision"])
    if (
        "files" in base
        and fingerprint.fingerprint_location(base_source.place, None, "models", digest=fingerprint.digest_bytes)["files"] != base["files"]
    ):
        raise ConfigError(f"model.path={path}: its base {base['path']} is not the model it was trained on (sha256 differs); train it again")
    if base_source.adapter is not None:
        raise ConfigError(f"model.path={path}: is an adapter on an adapter; merge {base['path']} into its base first with stage=export")
    return ModelSource(place=base_source.place, revision=base_source.revision, adapter=folder, tokenizer=folder)


def load_model(experiment: Experiment) -> LoadedModel:
    """The model an experiment starts from, its adapter already merged in, and its tokenizer."""
    settings = experiment.model
    assert settings.path is not None
    source = find_source(settings.path, settings.revision)
    bits = get_bits(experiment)
    model = load_base(experiment, source)
    inherited = source.adapter
    if inherited is not None:
        adapters.refuse_unstackable(inherited)
        if bits is None:
            adapters.untie_adapted_ends(inherited, model)
            model = PeftModel.from_pretrained(model, inherited, autocast_adapter_dtype=False).merge_and_unload()
            model.requires_grad_(True)  # PEFT froze the base; full training would train nothing
        else:
            refuse_other_shape(experiment, inherited)
            model = PeftModel.from_pretrained(model, inherited, is_trainable=True)
    tokenizer = load_tokenizer(experiment, source)
    base = {"path": source.place.name if source.place.kind != "run" else str(source.place.path), "revision": get_commit(model, source)}
    if source.place.kind != "hub":
        base |= fingerprint.fingerprint_location(source.place, None, "models")
    return LoadedModel(model=model, tokenizer=tokenizer, base=base, inherited=inherited)


def load_base(experiment: Experiment, source: ModelSource) -> PreTrainedModel:
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
        if source.place.kind == "gguf":
            assert source.place.path is not None
            if bits is not None:
                raise ConfigError(f"adapter.bits={bits}: a .gguf base is unpacked to train, not quantized again; type adapter=lora")
            # By default, transformers keeps the weights packed if it has a kernel for them, and packed weights cannot be trained.
            arguments["quantization_config"] = GgufConfig(dequantize=True)
            model, info = AutoModelForCausalLM.from_pretrained(source.place.path.parent, gguf_file=source.place.path.name, **arguments)
        else:
            # A pickle can run code when it is loaded.
            model, info = AutoModelForCausalLM.from_pretrained(
                source.place.path or source.place.name, revision=source.revision or "main", use_safetensors=True, **arguments
            )
    except OSError as error:
        raise HubError(
            f"model.path={settings.path}: {first_line(error)}; fetch it with stage=download model.path={settings.path}"
        ) from error
    refuse_other_weights(source.place.name, info)
    if bits == 4:
        keep_quantized_weights(model)
    return model


def keep_quantized_weights(model: PreTrainedModel) -> None:
    """Keep 4-bit weights in their first quantized form.

    On a CPU with bfloat16 instructions, bitsandbytes packs them again, with coarser scales, at the first forward in evaluation mode. It
    does not undo this, and the packed weights pass no gradient back.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def load_tokenizer(experiment: Experiment, source: ModelSource) -> Any:
    """The tokenizer in the folder of the adapter or model, or the one that `model.tokenizer` names. It always has a pad token."""
    settings = experiment.model
    if settings.tokenizer is not None:
        place, revision = find_model(settings.tokenizer), settings.tokenizer_revision
        if place.path is not None and (place.path / MANIFEST).is_file() and (damage := find_damage(place.path)):
            raise ConfigError(f"model.tokenizer={settings.tokenizer}: {damage}; name another tokenizer")
    elif source.tokenizer is not None and (source.tokenizer / "tokenizer_config.json").is_file():
        place, revision = Location(kind="folder", name=str(source.tokenizer), path=source.tokenizer), None
    else:
        place, revision = source.place, source.revision
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
    """Raise ConfigError if the adapter settings differ from the earlier adapter: on a quantized base, that adapter is trained further."""
    adapter, config = experiment.adapter, adapters.read_adapter_config(inherited)
    assert adapter is not None
    differences = [
        f"adapter.{our_name}={config[their_name]}"
        for our_name, their_name in (("rank", "r"), ("alpha", "lora_alpha"), ("dropout", "lora_dropout"))
        if getattr(adapter, our_name) != config[their_name]
    ]
    target_modules = adapter.target_modules
    if isinstance(target_modules, list) and set(target_modules) != set(config["target_modules"]):
        differences.append(f"adapter.target_modules=[{','.join(sorted(config['target_modules']))}]")
    if differences:
        raise ConfigError(
            f"adapter: a quantized base keeps the adapter of {inherited.parent} and trains it on; type {' '.join(differences)}"
        )


def get_commit(model: Any, source: ModelSource) -> str | None:
    """The hub commit that was loaded."""
    return getattr(model.config, "_commit_hash", None) or source.revision if source.place.kind == "hub" else None
