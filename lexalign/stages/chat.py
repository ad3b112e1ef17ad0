"""`stage=chat`: a conversation on the terminal with a model, or with two models side by side."""

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
    """Answer each line of the input until it ends. The conversation is stored in the result's samples."""
    path = experiment.model.path
    assert path is not None
    second_experiment = make_second_experiment(experiment)
    command = vllm.make_command(path, experiment.model.revision)
    details = {"model": path, "against": second_experiment.model.path if second_experiment else None, "vllm": command}
    if experiment.dry_run:
        summary.show_plan_table({name: str(value) for name, value in details.items()}, "nothing is answered")
        return Result(status="planned", stage=experiment.stage.name, details={"plan": details})
    with freeze_first_imports():
        from lexalign.models.setup import prepare_process

        prepare_process(experiment, rows=0)
        from lexalign.chat.model_speaker import ModelSpeaker

    speakers = [ModelSpeaker.of("model", experiment)]
    if second_experiment is not None:
        speakers.append(ModelSpeaker.of("reference" if experiment.chat.against == "reference" else "other", second_experiment))
    conversation.write_now(f"To serve it with vLLM: {command}\n{conversation.RESET} starts a new conversation, {conversation.EXIT} ends\n")
    answers = conversation.talk(speakers)
    return Result(status="finished", stage=experiment.stage.name, counts={"turns": len(answers)}, samples=answers, details=details)


def make_second_experiment(experiment: Experiment) -> Experiment | None:
    """Return the experiment of the second model; None if there is none. Raises ConfigError if the model cannot be found."""
    name = experiment.chat.against
    assert experiment.model.path is not None
    second_experiment = make_reference_experiment(
        experiment, Provenance.read(experiment.model.path), name, setting="chat.against", instead=TYPE_ANOTHER
    )
    if name is not None and second_experiment is None:
        raise ConfigError(
            f"chat.against=reference: {experiment.model.path} does not record which model it was trained from; {TYPE_ANOTHER}"
        )
    return second_experiment
