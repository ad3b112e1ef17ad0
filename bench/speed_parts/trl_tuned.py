"""Arm B: TRL's trainers with every setting that makes them faster here: no checkpointing, reference precomputed, packing for sft."""

import json
import sys

import torch
import trl
from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer

job = json.loads(sys.argv[1])
torch.set_num_threads(job["threads"])
dpo = job["kind"] == "dpo"
common = {
    "output_dir": job["out"], "max_steps": job["steps"], "per_device_train_batch_size": job["batch"], "seed": job["seed"],
    "data_seed": job["seed"], "learning_rate": job["rate"], "lr_scheduler_type": "constant", "logging_steps": 1, "report_to": [],
    "save_strategy": "no", "use_cpu": job["device"] == "cpu", "bf16": job["precision"] == "bf16", "activation_checkpointing": False,
    "disable_tqdm": True, "dataloader_pin_memory": False, "max_length": job["max_length"],
}  # fmt: skip
if dpo:
    args = trl.DPOConfig(**common, beta=job["beta"], precompute_ref_log_probs=True)
else:
    args = trl.SFTConfig(**{**common, "per_device_train_batch_size": job["packed"]}, packing=True)
dtype = torch.bfloat16 if job["precision"] == "bf16" else torch.float32
trainer = (trl.DPOTrainer if dpo else trl.SFTTrainer)(
    model=AutoModelForCausalLM.from_pretrained(job["model"], dtype=dtype),
    args=args,
    train_dataset=load_dataset(job["data"], split="train"),
    processing_class=AutoTokenizer.from_pretrained(job["model"]),
    peft_config=LoraConfig(r=job["rank"], lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"),
)
trainer.train()
