"""The vLLM command that serves a model or an adapter. No torch."""

import json
import shlex
from pathlib import Path
from typing import Any

from lexalign.artifacts import files
from lexalign.artifacts.provenance import Provenance
from lexalign.config.paths import Location, find_model

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM accepts for --max-lora-rank."""
UNSUPPORTED_FEATURES = ("use_dora", "modules_to_save", "trainable_token_indices", "lora_bias", "layer_replication")
"""Features of an adapter that vLLM does not serve."""


def make_command(path: str, revision: str | None) -> str:
    """Make the command that serves the model at `path`. For an adapter that vLLM cannot serve, it begins with an export."""
    place = find_model(path)
    folder = place.path
    if folder is None or not (folder / files.ADAPTER_CONFIG).is_file():
        return make_serve_command(place, revision)
    config = json.loads((folder / files.ADAPTER_CONFIG).read_text(encoding="utf-8"))
    past = Provenance.read(path)
    base = past.manifest.get("base") or {"path": config["base_model_name_or_path"], "revision": config.get("revision")}
    below = find_model(base["path"])
    if reason := explain_export_needed(config, past, below):
        export = shlex.join(["python", "run.py", "stage=export", f"model.path={path}", "output_dir=exported"])
        return f"{export} && vllm serve exported/artifact   # {reason}"
    rank = next(rank for rank in LORA_RANKS if rank >= config["r"])
    name = folder.parent.name if folder.name == "artifact" else folder.name
    words = ["--enable-lora", "--lora-modules", f"{name}={folder.resolve()}", "--max-lora-rank", str(rank)]
    template = folder / "chat_template.jinja"
    return make_serve_command(
        below, base["revision"], *words, *(["--chat-template", str(template.resolve())] if template.is_file() else [])
    )


def explain_export_needed(config: dict[str, Any], past: Provenance, base: Location) -> str | None:
    """Explain why vLLM cannot serve an adapter on its base; None if it can."""
    if past.bits:
        return f"the adapter was trained on a base of {past.bits} bits, which vLLM quantizes in another way"
    if base.kind == "gguf":
        return "vLLM serves no adapter on a .gguf base"
    if features := [name for name in UNSUPPORTED_FEATURES if config.get(name)]:
        return f"the adapter uses {', '.join(features)}"
    if config["r"] > LORA_RANKS[-1]:
        return f"the adapter's rank is {config['r']}, vLLM's limit {LORA_RANKS[-1]}"
    return None


def make_serve_command(place: Location, revision: str | None, *words: str) -> str:
    """Make the `vllm serve` command of a model."""
    where = place.name if place.path is None else str(Path(place.path).resolve())
    return shlex.join(["vllm", "serve", where, *(["--revision", revision] if revision else []), *words])
