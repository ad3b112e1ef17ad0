"""Find the origin of a setting's value: the command line, an experiment file, tuned values, the method's file, or the default."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lexalign.config.loading import Sources
from lexalign.config.model_choice import follow_model
from lexalign.config.overrides import get_key
from lexalign.config.parsing import format_value

DECIDING = (
    "train.learning_rate", "train.epochs", "train.max_steps", "train.batch_size", "train.gradient_accumulation_steps", "train.max_length",
    "method.beta", "method.loss_on", "adapter.kind", "adapter.rank", "data.eval_split", "data.eval_fraction",
)  # fmt: skip
"""Settings with the largest effect on the result of a training run."""
DEFAULT = "default"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The value of a setting and the place where it was set."""

    key: str
    value: Any
    where: str
    """`typed`, or a choice in the form of the command line (`experiment=tiny/sft`, `tuned=tiny_lora`, `method=gdpo`), or `default`."""

    def __str__(self) -> str:
        return f"{self.key}={format_value(self.value)} ({self.where})"


def find_origins(keys: Sequence[str], overrides: Sequence[str], sources: Sources) -> list[Origin]:
    """The origin of each of these settings that the experiment has. The overrides must compose."""
    final_overrides, _ = follow_model(overrides, sources)
    tree = sources.compose(final_overrides)
    files = list_files(final_overrides, sources)
    typed_keys = {get_key(override) for override in overrides}
    origins = []
    for key in keys:
        if not has_key(tree, key):
            continue
        is_typed = any(key == name or key.startswith(f"{name}.") for name in typed_keys if not sources.is_group(name))
        where = "typed" if is_typed else next((file for file, node in reversed(files) if has_key(node, key)), DEFAULT)
        origins.append(Origin(key=key, value=OmegaConf.select(tree, key), where=where))
    return origins


def list_files(overrides: Sequence[str], sources: Sources) -> list[tuple[str, Any]]:
    """The files of a composition in the order of merging: the choice of each, and the values that it sets."""
    loader = sources.loader
    groups = [override for override in overrides if sources.is_group(get_key(override))]
    try:
        defaults = loader.compute_defaults_list("config", groups, RunMode.RUN).defaults
    except HydraException:
        return []
    files = []
    for entry in defaults:
        path = str(entry.config_path)
        file = loader.repository.load_config(path)
        if file is None or path.startswith("hydra/"):
            continue
        package = entry.package or ""
        node = OmegaConf.create({}) if package else file.config
        if package:
            OmegaConf.update(node, package, file.config, force_add=True)
        group, _, option = path.partition("/")
        files.append((f"{group}={option}" if option else DEFAULT, node))
    return files


def has_key(node: Any, key: str) -> bool:
    """Whether a tree sets a dotted key, also to null."""
    *parents, name = key.split(".")
    try:
        holder = OmegaConf.select(node, ".".join(parents)) if parents else node
    except OmegaConfBaseException:
        return False
    return OmegaConf.is_dict(holder) and name in holder


def explain(key: str, overrides: Sequence[str], sources: Sources) -> str | None:
    """A text about one setting: its value, its origin, and the values in other files; None if there is no such setting."""
    origins = find_origins([key], overrides, sources)
    if not origins:
        return None
    lines = [str(origins[0])]
    final_overrides, notes = follow_model(overrides, sources)
    for file, node in reversed(list_files(final_overrides, sources)):
        if file != origins[0].where and has_key(node, key):
            lines.append(f"  {file} says {format_value(OmegaConf.select(node, key))}")
    return "\n".join([*lines, *(f"  {note}" for note in notes)])
