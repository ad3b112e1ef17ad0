"""`stage=chat`: a conversation with a model on the terminal, alone or beside a second one."""

from pathlib import Path
from typing import Any

from lexalign.artifacts.provenance import Provenance, make_reference_experiment
from lexalign.artifacts.result import Result
from lexalign.chat import conversation, vllm
from lexalign.compat import freeze_first_imports
from lexalign.config.schema import Experiment
from lexalign.errors import ConfigError
from lexalign.evaluation import summary

TYPE_ANOTHER = "type chat.against=<path>, or leave it out"


def run(experiment: Experiment, out_dir: Path, tracker: Any) -> Result:
    """Answer what is typed, or comes through a pipe, until it ends; what was said is in the result's samples."""
    path = experiment.model.path
    assert path is not None
    other = make_second_experiment(experiment)
    served = vllm.make_command(path, experiment.model.revision)
    details = {"model": path, "against": other.model.path if other else None, "vllm": served}
    if experiment.dry_run:
        summary.show_plan_table({name: str(value) for name, value in details.items()}, "nothing is answered")
        return Result(status="planned", stage=experiment.stage.name, details={"plan": details})
    with freeze_first_imports():
        from lexalign.models.setup import prepare_process

        prepare_process(experiment, rows=0)
        from lexalign.chat.model_speaker import ModelSpeaker

    speakers = [ModelSpeaker.of("model", experiment)]
    if other is not None:
        speakers.append(ModelSpeaker.of("reference" if experiment.chat.against == "reference" else "other", other))
    conversation.write_now(f"To serve it with vLLM: {served}\n{conversation.RESET} begins anew, {conversation.EXIT} ends\n")
    said = conversation.talk(speakers)
    return Result(status="finished", stage=experiment.stage.name, counts={"turns": len(said)}, samples=said, details=details)


def make_second_experiment(experiment: Experiment) -> Experiment | None:
    """The experiment with the model that answers too; None without one. Raises ConfigError where it is not found."""
    named = experiment.chat.against
    assert experiment.model.path is not None
    found = make_reference_experiment(experiment, Provenance.of(experiment.model.path), named, setting="chat.against", instead=TYPE_ANOTHER)
    if named is not None and found is None:
        raise ConfigError(f"chat.against=reference: {experiment.model.path} does not tell what it was trained from; {TYPE_ANOTHER}")
    return found
