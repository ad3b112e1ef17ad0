"""The source of an export: the files of a model, its provenance, and the ways in which its adapter can be merged."""

import dataclasses
import logging
from dataclasses import dataclass
from typing import Any, Literal

from transformers import AutoConfig

from lexalign.artifacts.provenance import Provenance
from lexalign.config.schema import Adapter, Experiment
from lexalign.models import loading
from lexalign.models.precision import get_bits

log = logging.getLogger(__name__)
Way = Literal["dequantized", "original", "unmerged"]
IN_WORDS: dict[Way, str] = {
    "dequantized": "merged into the dequantized weights",
    "original": "merged into the original weights",
    "unmerged": "as it is, without an adapter to merge",
}


@dataclass(frozen=True, kw_only=True)
class ExportSource:
    """A model to export."""

    source: loading.ModelSource
    past: Provenance
    experiment: Experiment
    """The settings, with the types and the quantization that the model was trained with."""
    dtype: str
    """The type of the exported weights."""

    @property
    def bits(self) -> int | None:
        """Quantization of the base that the adapter was trained on, in bits; None if it was not quantized."""
        return get_bits(self.experiment)

    @property
    def ways(self) -> tuple[Way, ...]:
        """The ways in which the model can be exported. If there are several, the one nearest to the trained model is chosen."""
        if self.source.adapter is None:
            return ("unmerged",)
        return ("dequantized", "original") if self.bits else ("original",)


def find_export_source(experiment: Experiment, past: Provenance) -> ExportSource:
    """Find the files and settings of the model to export.

    Raises ConfigError if it is damaged, a checkpoint, or an adapter of another base.
    """
    path = experiment.model.path
    assert path is not None
    source = loading.find_source(path, experiment.model.revision)
    stored_dtype = read_stored_dtype(source, experiment)
    if source.adapter is None:
        training_experiment = dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, dtype=stored_dtype))
    else:
        if past.folder is None:
            log.warning("%s does not record how its adapter was trained; its base is assumed to be not quantized", path)
        training_experiment = dataclasses.replace(
            experiment,
            model=dataclasses.replace(experiment.model, dtype=past.setting("model", "dtype") or "auto"),
            hardware=dataclasses.replace(
                experiment.hardware, precision=past.setting("hardware", "precision") or experiment.hardware.precision
            ),
            adapter=make_base_settings(past.bits),
        )
    dtype = experiment.export.dtype
    return ExportSource(source=source, past=past, experiment=training_experiment, dtype=stored_dtype if dtype == "auto" else dtype)


def make_base_settings(bits: int | None) -> Adapter:
    """Make the adapter settings that loading the base reads."""
    return Adapter(kind="qlora" if bits else "lora", rank=None, alpha=None, dropout=None, target_modules=None, bits=bits)


def read_stored_dtype(source: loading.ModelSource, experiment: Experiment) -> Any:
    """Return the type of the base's weights on the disk; float32 if its files do not say (.gguf)."""
    if source.place.kind == "gguf":
        return "float32"
    config = AutoConfig.from_pretrained(
        source.place.path or source.place.name, revision=source.revision or "main", trust_remote_code=experiment.model.trust_remote_code
    )
    return str(config.get_text_config().dtype or config.dtype or "float32").removeprefix("torch.")
