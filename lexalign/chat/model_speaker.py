"""A model that answers on the terminal, token by token. It remembers the conversation if it has a chat template."""

import dataclasses
import logging
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import TextStreamer

from lexalign.artifacts.provenance import Provenance
from lexalign.chat.conversation import Write
from lexalign.config import hardware
from lexalign.config.schema import Chat, Experiment
from lexalign.data.rendering import Renderer
from lexalign.data.template import Turns
from lexalign.data.template_changes import TemplateRefusal
from lexalign.errors import ConfigError
from lexalign.evaluation.scoring import GREEDY, WHOLE_DISTRIBUTION, get_device
from lexalign.models import loading
from lexalign.models.generation import use_plain_generation
from lexalign.models.renderers import make_renderer

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class ModelSpeaker:
    """Answers with a model. `turns` is the conversation so far."""

    name: str
    model: Any
    encoder: Renderer
    settings: Chat
    turns: Turns = field(default_factory=list)

    @classmethod
    def of(cls, name: str, experiment: Experiment) -> "ModelSpeaker":
        """Load the model of an experiment, with the prompts of its training. Raises ConfigError if it cannot take the system message."""
        assert experiment.model.path is not None
        past, settings = Provenance.read(experiment.model.path), experiment.chat
        if past.bits:
            log.info("%s: the model was trained on a base of %d bits; it answers on the base as it is", name, past.bits)
        loaded_model = loading.load_model(experiment)
        model: Any = loaded_model.model
        data = dataclasses.replace(
            experiment.data,
            chat_template="never"
            if past.setting("data", "chat_template") == "never"
            else "auto",  # the user's own template is saved with the model
            system=settings.system or past.setting("data", "system"),
            template_arguments=past.setting("data", "template_arguments"),
        )
        encoder = make_renderer(dataclasses.replace(experiment, data=data), loaded_model.tokenizer, model=model)
        if not encoder.chat:
            log.info("%s: has no chat template, or was trained without; each line is a prompt of its own", name)
            if settings.system is not None:
                raise ConfigError(f"chat.system: {experiment.model.path} is not spoken to in turns; type chat.system=null")
        try:
            encoder.render_prompt("?")
        except TemplateRefusal as error:
            path = experiment.model.path
            raise ConfigError(f"chat.system: the chat template of {path} refuses it ({error.reason}); leave it out") from error
        device = hardware.resolve_device(experiment.hardware.device)
        return cls(name=name, model=model.to(device).eval(), encoder=encoder, settings=settings)

    def forget(self) -> None:
        """Start a new conversation."""
        self.turns = []

    def answer(self, text: str, *, turn: int, write: Write) -> str:
        """Return the answer to a text, and write it as it is generated. The seed is `chat.seed` plus `turn`, the same for both models."""
        turns: Turns = [*self.turns, {"role": "user", "content": text}]
        ids = self.encoder.render_prompt(turns if self.encoder.chat else text)
        free_positions = self.model.config.get_text_config().max_position_embeddings - len(ids)
        if free_positions < 1:
            write(f"(the conversation has {len(ids)} tokens, more than the model takes: /reset begins a new one)")
            return ""
        stream = Stream(self.encoder.tokenizer, write)
        torch.manual_seed(self.settings.seed + turn)
        inputs = torch.tensor([ids], device=get_device(self.model))
        length = min(self.settings.max_new_tokens, free_positions)
        ends, pad = self.encoder.end_tokens, self.encoder.tokenizer.pad_token_id
        with torch.no_grad(), use_plain_generation(self.model, ends=ends, pad=pad):
            output_ids = self.model.generate(
                input_ids=inputs,
                attention_mask=torch.ones_like(inputs),
                max_new_tokens=length,
                streamer=stream,
                **self.drawing(),
            )
        if output_ids[0, -1].item() not in ends:
            write(f" […] (cut at {length} tokens)")
        if self.encoder.chat:
            self.turns = [*turns, {"role": "assistant", "content": stream.text}]
        return stream.text

    def drawing(self) -> dict[str, Any]:
        """Return the settings of generation: sampled at `chat.temperature`, or greedy for 0."""
        return {**WHOLE_DISTRIBUTION, "temperature": self.settings.temperature} if self.settings.temperature else GREEDY


class Stream(TextStreamer):
    """Writes whole words as they are generated, and stores the text."""

    def __init__(self, tokenizer: Any, write: Write):
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.write, self.text = write, ""

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Write and store a piece of text. The library calls it for each piece."""
        self.text += text
        self.write(text)
