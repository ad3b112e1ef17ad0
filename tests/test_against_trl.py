"""Every method's loss and gradient against TRL's own trainers, on three families: TRL is the oracle, and no part of what we train with."""

import pytest
from method_lab import PAIRS, answer_rows, copy_weights, gradient_by_name, loss_and_gradient, make_trainer, pair_rows, sequence
from small_models import made, relative

from lexalign.config.paths import EMBEDDED

FAMILIES = ("llama_tied", "qwen3", "gemma3")
LOSS_TYPES = ("sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired",
              "apo_zero", "apo_down", "discopop", "sft")  # fmt: skip
TOLERANCE = 1e-5
LABELS = [1, 0, 1, 1, 0, 1, 0, 0]
TEXTS = {"prompt": "Where?", "chosen": "Here.", "rejected": "There."}


def arguments(folder, **more):
    return dict(
        output_dir=str(folder), per_device_train_batch_size=8, report_to=[], save_strategy="no", use_cpu=True, bf16=False,
        activation_checkpointing=False, disable_tqdm=True, dataloader_pin_memory=False, max_length=64, **more,
    )  # fmt: skip


def lora():
    from peft import LoraConfig

    return LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")


def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(EMBEDDED / "tiny")


def make_theirs(trainer_class, config, data, family, ours):
    """TRL's trainer on the same model with the same adapter."""
    from datasets import Dataset

    theirs = trainer_class(
        model=made(family), args=config, train_dataset=Dataset.from_list(data), processing_class=tokenizer(), peft_config=lora()
    )
    copy_weights(ours.model, theirs.model)
    theirs.model.train()
    return theirs


def assert_equal(ours, theirs, rows, loss_of_theirs):
    theirs.model.zero_grad(set_to_none=True)
    wanted = loss_of_theirs()
    wanted.backward()
    loss, gradient = loss_and_gradient(ours, rows)
    assert loss == pytest.approx(float(wanted.detach()), rel=TOLERANCE, abs=1e-6)
    assert relative(gradient, gradient_by_name(theirs.model)) < TOLERANCE


@pytest.fixture(scope="module", params=FAMILIES)
def dpo(request, tmp_path_factory):
    """Our trainer and TRL's DPOTrainer of a family, and a batch as TRL's collator makes it."""
    import trl
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    folder = tmp_path_factory.mktemp("dpo")
    ours = make_trainer(folder, "method=dpo", family=request.param)
    theirs = make_theirs(trl.DPOTrainer, trl.DPOConfig(**arguments(folder, beta=0.1)), [TEXTS] * 8, request.param, ours)
    batch = DataCollatorForPreference(pad_token_id=0)([{f"{name}_ids": ids for name, ids in pair.items()} for pair in PAIRS])
    return ours, theirs, batch


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_dpo(dpo, loss_type):
    import dataclasses

    ours, theirs, batch = dpo
    smoothing = 0.1 if loss_type in ("exo_pair", "robust", "aot", "aot_unpaired") else 0.0
    ours.objective.method = dataclasses.replace(ours.objective.method, loss_type=loss_type, label_smoothing=smoothing)
    theirs.loss_types, theirs.label_smoothing = [loss_type], smoothing
    assert_equal(ours, theirs, pair_rows(), lambda: theirs.compute_loss(theirs.model, dict(batch)))


@pytest.mark.parametrize("family", FAMILIES)
def test_ipo(family, tmp_path):
    import trl
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    ours = make_trainer(tmp_path, "method=ipo", "method.beta=0.3", family=family)
    config = trl.DPOConfig(**arguments(tmp_path, beta=0.3, loss_type=["ipo"]))
    theirs = make_theirs(trl.DPOTrainer, config, [TEXTS] * 8, family, ours)
    batch = DataCollatorForPreference(pad_token_id=0)([{f"{name}_ids": ids for name, ids in pair.items()} for pair in PAIRS])
    assert_equal(ours, theirs, pair_rows(), lambda: theirs.compute_loss(theirs.model, batch))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("labels", [LABELS, [1] * 8, [0] * 8])
def test_kto(family, labels, tmp_path):
    import trl
    from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference

    ours = make_trainer(tmp_path, "method=kto", "method.desirable_weight=1.3", "method.undesirable_weight=0.7", family=family)
    config = trl.KTOConfig(**arguments(tmp_path, beta=0.1, desirable_weight=1.3, undesirable_weight=0.7))
    theirs = make_theirs(trl.KTOTrainer, config, [{"prompt": "a", "completion": "b", "label": True}] * 8, family, ours)
    rows = answer_rows(labels)
    flat = [
        {"prompt_ids": own["context"], "completion_ids": own["response"], "KL_completion_ids": row["mismatched"]["response"],
         "label": bool(row["label"])}
        for row in rows for own in row["sequences"]
    ]  # fmt: skip
    batch = DataCollatorForUnpairedPreference(pad_token_id=0)(flat)
    assert_equal(ours, theirs, rows, lambda: theirs.compute_loss(theirs.model, batch))


@pytest.mark.parametrize("family", FAMILIES)
def test_sft(family, tmp_path):
    """Completions, and a conversation with tokens between its turns that are not trained."""
    import trl

    ours = make_trainer(tmp_path, "method=lora", "adapter.dropout=0", family=family)
    config = trl.SFTConfig(**arguments(tmp_path))
    theirs = make_theirs(trl.SFTTrainer, config, [{"prompt": "a", "completion": "b"}] * 8, family, ours)
    rows = [*answer_rows(), {"sequences": [sequence([1, 2, 3], [4, 5, 6, 7, 8], weights=[1.0, 1.0, 0.0, 0.0, 1.0])]}]
    batch = ours.data_collator(rows)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
    assert_equal(ours, theirs, rows, lambda: theirs.compute_loss(theirs.model, inputs))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["orpo", "cpo", "simpo"])
def test_without_a_reference(family, method, tmp_path):
    from trl.experimental import cpo, orpo

    settings = {"orpo": {"beta": 0.2}, "cpo": {"beta": 0.3, "cpo_alpha": 0.7}, "simpo": {"beta": 2.0, "gamma": 1.4}}[method]
    ours = make_trainer(tmp_path, f"method={method}", *(f"method.{name}={value}" for name, value in settings.items()), family=family)
    trl_settings = {"simpo": {"beta": 2.0, "simpo_gamma": 1.4, "loss_type": "simpo", "cpo_alpha": 0.0}}.get(method, settings)
    trainer, config = (orpo.ORPOTrainer, orpo.ORPOConfig) if method == "orpo" else (cpo.CPOTrainer, cpo.CPOConfig)
    theirs = make_theirs(trainer, config(**arguments(tmp_path, **trl_settings)), [TEXTS] * 8, family, ours)
    rows = []
    for pair in PAIRS:
        row = {}
        for side in ("chosen", "rejected"):
            ids = pair["prompt"] + pair[side]
            row |= {
                f"{side}_input_ids": ids,
                f"{side}_attention_mask": [1] * len(ids),
                f"{side}_labels": [-100] * len(pair["prompt"]) + pair[side],
            }
        rows.append(row)
    batch = theirs.data_collator(rows)
    assert_equal(ours, theirs, pair_rows(), lambda: theirs.get_batch_loss_metrics(theirs.model, batch)[0])


def test_the_oracle_sees_a_difference(dpo):
    """One token of one response: loss and gradient are others by far more than the tolerance."""
    ours, theirs, batch = dpo
    rows = pair_rows([{**PAIRS[0], "chosen": [11, 12, 15, 2]}, *PAIRS[1:]])
    with pytest.raises(AssertionError):
        assert_equal(ours, theirs, rows, lambda: theirs.compute_loss(theirs.model, dict(batch)))


def test_the_families_are_computed_packed(tmp_path):
    """What is compared is the fast path."""
    assert {make_trainer(tmp_path / family, "method=dpo", family=family).layout for family in FAMILIES} == {"packed"}
