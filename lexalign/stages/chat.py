"""`stage=chat`: a conversation with a model on the terminal, alone or beside a second one."""

from pathlib import Path
from typing import Any

from lexalign import report
from lexalign.chat import serving, session
from lexalign.errors import ConfigError
from lexalign.importing import first_imports
from lexalign.past import Past, reference_of
from lexalign.results import Result
from lexalign.schema import Experiment

TYPE_ANOTHER = "type chat.against=<path>, or leave it out"


def run(experiment: Experiment, out_dir: Path, tracker: Any) -> Result:
    """Answer what is typed, or comes through a pipe, until it ends; what was said is in the result's samples."""
    path = experiment.model.path
    assert path is not None
    other = second(experiment)
    served = serving.command(path, experiment.model.revision)
    details = {"model": path, "against": other.model.path if other else None, "vllm": served}
    if experiment.dry_run:
        report.plan({name: str(value) for name, value in details.items()}, "nothing is answered")
        return Result(status="planned", stage=experiment.stage.name, details={"plan": details})
    with first_imports():
        from lexalign.startup import begin

        begin(experiment, rows=0)
        from lexalign.chat.speaker import ModelSpeaker

    speakers = [ModelSpeaker.of("model", experiment)]
    if other is not None:
        speakers.append(ModelSpeaker.of("reference" if experiment.chat.against == "reference" else "other", other))
    session.show(f"To serve it with vLLM: {served}\n{session.RESET} begins anew, {session.EXIT} ends\n")
    said = session.talk(speakers)
    return Result(status="finished", stage=experiment.stage.name, counts={"turns": len(said)}, samples=said, details=details)


def second(experiment: Experiment) -> Experiment | None:
    """The experiment with the model that answers too; None without one. Raises ConfigError where it is not found."""
    named = experiment.chat.against
    assert experiment.model.path is not None
    found = reference_of(experiment, Past.of(experiment.model.path), named, setting="chat.against", instead=TYPE_ANOTHER)
    if named is not None and found is None:
        raise ConfigError(f"chat.against=reference: {experiment.model.path} does not tell what it was trained from; {TYPE_ANOTHER}")
    return found
