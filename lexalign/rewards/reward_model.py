"""A reward model: a sequence classifier with one output, from a folder or the hub."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from lexalign.config.parsing import Range
from lexalign.config.paths import find_model
from lexalign.errors import RewardError
from lexalign.rewards.base import Reward

if TYPE_CHECKING:
    import torch


@dataclass(kw_only=True)
class RewardModel(Reward):
    """The output of a sequence-classification model for prompt and completion. They are chat turns if its tokenizer has a chat template."""

    path: str
    """Folder or hub id. The weights must be .safetensors."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    batch_size: Annotated[int, Range(least=1)] = 16
    """Number of completions in a batch."""

    def __post_init__(self) -> None:
        place = find_model(self.path)
        if place.kind == "missing":
            raise ValueError(f"path={self.path}: {place.problem}; name a folder or a hub id")
        if place.kind != "hub":
            if place.kind != "folder" or place.path is None or not (place.path / "config.json").is_file():
                raise ValueError(f"path={self.path}: a reward model is a hub id, or a folder with config.json and .safetensors")
            if not any(place.path.glob("*.safetensors")):
                raise ValueError(f"path={self.path}: the folder holds no .safetensors; save the model again with save_pretrained")
            if self.revision is not None:
                raise ValueError(f"revision={self.revision}: only hub models have one; leave it out")

    def load(self, device: str) -> None:
        self._judge = Classifier(self.path, self.revision, device)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_judge"}

    def __call__(self, prompts: Sequence[Any], completions: Sequence[str], columns: Mapping[str, Sequence[Any]]) -> list[float]:
        texts = [self._judge.text(prompt, completion) for prompt, completion in zip(prompts, completions, strict=True)]
        scores: list[float] = []
        for start in range(0, len(texts), self.batch_size):
            scores += self._judge.scores(texts[start : start + self.batch_size])
        return scores


class Classifier:
    """A sequence classifier in memory."""

    model: "torch.nn.Module"

    def __init__(self, path: str, revision: str | None, device: str):
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        try:
            self.tokenizer = AutoTokenizer.from_pretrained(path, revision=revision or "main")
            model, info = AutoModelForSequenceClassification.from_pretrained(
                path, revision=revision or "main", use_safetensors=True, output_loading_info=True
            )
        except (OSError, ValueError) as error:
            raise RewardError(f"the reward model {path}: {str(error).strip().splitlines()[0]}; name another path") from error
        if model.config.num_labels != 1:
            raise RewardError(f"the reward model {path} has {model.config.num_labels} outputs; a reward model has one (num_labels=1)")
        if info["missing_keys"]:
            # A causal model also loads as a classifier, with random numbers in its head.
            raise RewardError(f"the reward model {path} lacks {', '.join(sorted(info['missing_keys']))}: it is not a trained reward model")
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        model.config.get_text_config().pad_token_id = self.tokenizer.pad_token_id
        self.model = model.eval().requires_grad_(False).to(device)

    def text(self, prompt: Any, completion: str) -> str:
        """Return the text that the model reads."""
        if not self.tokenizer.chat_template:
            return (prompt if isinstance(prompt, str) else "\n".join(turn["content"] for turn in prompt)) + completion
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        return str(self.tokenizer.apply_chat_template([*turns, {"role": "assistant", "content": completion}], tokenize=False))

    def scores(self, texts: list[str]) -> list[float]:
        """Return the model's output for each text."""
        import torch

        special = not self.tokenizer.chat_template
        batch = self.tokenizer(texts, return_tensors="pt", padding=True, padding_side="right", add_special_tokens=special)
        inputs = {name: batch[name].to(self.model.device) for name in ("input_ids", "attention_mask")}
        with torch.inference_mode():
            return self.model(**inputs).logits[:, 0].float().tolist()
