"""The reference: its numbers stay those of the start, come from the store where it has them, and belong to one row each."""

import pytest
import torch
from method_lab import PAIRS, make_trainer, pair_rows
from small_models import adapted, made

from lexalign.models.adapters import COPY, add_frozen_copy, use_start_model
from lexalign.training.collator import list_spans


def batch_of(trainer, **columns):
    return trainer.data_collator(pair_rows(**columns))


def test_what_the_store_has_is_not_computed_again(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, "method=dpo")
    reference, batch = trainer.reference, batch_of(trainer)
    first = reference.look_up(batch)["sums"]
    assert reference.cache.computed == 0 and reference.cache.values == {}, "a trial leaves nothing in the store"
    reference.is_counting = True
    assert torch.equal(reference.look_up(batch)["sums"], first) and reference.cache.computed == 2 * len(PAIRS)
    monkeypatch.setattr(reference, "compute", lambda batch: pytest.fail("computed again"))
    assert torch.equal(reference.look_up(batch)["sums"], first) and reference.cache.reused == 2 * len(PAIRS)
    one = trainer.data_collator(pair_rows()[3:5])
    assert torch.equal(reference.look_up(one)["sums"], torch.cat((first[3:5], first[11:13]))), "whatever the batch"


def test_a_weighted_row_is_another_row(tmp_path):
    trainer = make_trainer(tmp_path, "method=dpo")
    trainer.reference.is_counting = True
    plain = trainer.reference.look_up(batch_of(trainer))["sums"]
    rows = pair_rows()
    for row in rows:
        for one in row["sequences"]:
            one["weights"] = [0.5] * len(one["response"])
    halved = trainer.reference.look_up(trainer.data_collator(rows))["sums"]
    assert torch.allclose(halved, plain / 2, rtol=1e-5) and list_spans(trainer.data_collator(rows))[0][2] == [0.5] * 4


def test_the_reference_does_not_move_with_the_policy(tmp_path):
    """A new adapter: the model without it, whatever it has learned."""
    trainer = make_trainer(tmp_path, "method=dpo")
    batch = batch_of(trainer)
    before = trainer.reference.look_up(batch)["sums"]
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            if "lora_B" in name:
                parameter += 0.3
    assert torch.equal(trainer.reference.look_up(batch)["sums"], before)
    with torch.no_grad():
        policy = trainer.score(trainer.model, batch, details=False)
    assert not torch.allclose((policy.log_probs * batch["weights"][:, 1:]).sum(1), before, atol=1e-2)


def test_the_reference_of_an_adapter_that_is_trained_on_is_its_copy():
    model = adapted(made("qwen3"))
    ids = torch.tensor([[1, 5, 9, 7]])
    before = model(input_ids=ids).logits.detach()
    add_frozen_copy(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".default." in name:
                parameter += 0.3
    assert not torch.allclose(model(input_ids=ids).logits, before, atol=1e-2)
    with use_start_model(model) as start, torch.no_grad():
        assert torch.equal(start(input_ids=ids).logits, before)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained and not any(f".{COPY}." in name for name in trained), "the copy is frozen, the adapter is trained again"
    assert model.active_adapter == "default"


def test_full_training_computes_its_reference_before_the_first_step(tmp_path):
    trainer = make_trainer(tmp_path, "method=dpo", "adapter=full")
    trainer.train_dataset = trainer.train_dataset.select([])
    reference, batch = trainer.reference, batch_of(trainer)
    reference.is_counting = True
    before = reference.look_up(batch)["sums"]
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter += 0.1
    trainer.state.global_step = 1
    assert torch.equal(reference.look_up(batch)["sums"], before)
    with pytest.raises(AssertionError, match="the reference is gone"):
        reference.look_up(trainer.data_collator(pair_rows([{**PAIRS[0], "prompt": [1, 2]}])))


def test_a_copy_of_the_model_is_asked_where_nothing_is_stored(tmp_path):
    trainer = make_trainer(tmp_path, "method=dpo", "adapter=full", "method.precompute_reference=false")
    batch = batch_of(trainer)
    before = trainer.reference.look_up(batch)["sums"]
    assert trainer.reference.cache is None and trainer.reference.model is not trainer.model
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter += 0.1
    assert torch.equal(trainer.reference.look_up(batch)["sums"], before)


def test_the_end_and_its_temperature_are_part_of_the_key(tmp_path):
    words = ("method=gdpo_flow",)
    keys = {make_trainer(tmp_path, *words, f"method.gamma={gamma}").reference.cache.model_key for gamma in (0.1, 0.5)}
    assert len(keys) == 2 and all("-end-" in key and "-gamma-" in key for key in keys)
