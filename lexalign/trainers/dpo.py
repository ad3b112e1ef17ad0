"""Direct preference optimization: TRL's DPOTrainer on our rows (arXiv 2305.18290, and the losses TRL offers beside it)."""

from typing import Any

from lexalign.schema import DpoMethod, Method
from lexalign.trainers.pairs import PairTrainer


class DPOTrainer(PairTrainer):
    """TRL's DPOTrainer, all of its losses."""

    def loss_arguments(self, method: Method) -> dict[str, Any]:
        assert isinstance(method, DpoMethod)
        return {"beta": method.beta, "loss_type": [method.loss_type], "label_smoothing": method.label_smoothing}
