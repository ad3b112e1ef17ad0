"""The beta of an arm, chosen by what is left of the likelihood of people's own answers on rows that no table is measured on."""

import statistics
from pathlib import Path

from gdpo_parts.runs import Desk

BETAS = (0.1, 0.5, 2.0, 8.0, 32.0)
SEED = 0
APART = ["data.eval_split=null", "data.eval_fraction=0.2"]
"""A fifth of the training split's prompts, held out of these runs alone."""


def measure_losses(desk: Desk, world: list[str], arm: list[str]) -> list[float]:
    """The held-out loss of an arm under each beta; world and arm are overrides."""
    world = [*list_overrides_apart(world), f"seed={SEED}"]
    unmeasured = ["evaluate.limit=1", "evaluate.belief_samples=0"]
    return [measure_loss(desk.make_artifact(*world, *arm, *unmeasured, f"method.beta={beta}"), world) for beta in BETAS]


def list_overrides_apart(world: list[str]) -> list[str]:
    """A world's overrides with the test split left alone and rows of training held out."""
    return [*(setting for setting in world if not setting.startswith("data.eval_")), *APART]


def measure_loss(artifact: Path, world: list[str]) -> float:
    """Mean nats of a held-out chosen answer, its belief included, given the prompt: a proper score of shares and sentences together."""
    from lexalign.config.compose import compose
    from lexalign.data.rendering import Renderer
    from lexalign.data.rows import load_rows
    from lexalign.evaluation.scoring import score_responses
    from lexalign.models import loading

    data = [setting for setting in world if not setting.startswith("model.")]
    experiment = compose(["stage=align", *data, "model=tiny", f"model.path={artifact}", "tracking=none"]).experiment
    loaded, rows = loading.load_model(experiment), load_rows(experiment).held_out
    encoder = Renderer(loaded.tokenizer, experiment.data)
    spans = [encoder.render_pair(row, shared_belief=False)[0] for row in rows]
    return -statistics.mean(total for total, _ in score_responses(loaded.model.eval(), spans, batch_size=16, max_length=1024))
