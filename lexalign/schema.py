"""Every setting of an experiment: its type, its range and what it means. Values live in `conf/`.

Standard library only: this module is read before anything heavy is imported. Fields have no default of their own (the YAML
files are the one home of values); `Annotated[...]` carries the range that `lexalign.parse` checks.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from lexalign.parse import Range

Positive = Range(above=0)
NotNegative = Range(least=0)
Count = Annotated[int, Range(least=1)]
Share = Annotated[float, Range(above=0, below=1)]
AnyShare = Annotated[float, Range(least=0, most=1)]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What the run does."""

    name: str
    """download, sft, align, evaluate, export or chat."""
    target: str
    """Dotted path of the function `(experiment, out_dir, tracker) -> Result` that does it."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a method needs of the other groups."""

    columns: list[str]
    """Data columns without which the method cannot run."""
    adapter: str | None
    """The adapter kind that the method pins, or null where the user chooses."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """How the model is trained. Knobs of a method's own are checked by the dataclass that its `knobs` names."""

    name: str
    """What it is called, as in `method=dpo`."""
    stage: str
    """The stage this method belongs to."""
    target: str
    """Dotted path of the trainer class."""
    knobs: str
    """Dotted path of the dataclass, a subclass of this one, that declares the method's own settings."""
    needs: Needs
    """What it cannot do without."""
    score: list[str]
    """Metrics by preference: the first one that the evaluation yields is the run's score."""


@dataclass(frozen=True, kw_only=True)
class SftMethod(Method):
    """Supervised fine-tuning."""

    loss_on: Literal["auto", "completion", "assistant", "all"]
    """Tokens that are trained: auto = the completion of prompt/completion rows, every assistant turn of conversations whose chat
    template marks them, all tokens of plain text."""


@dataclass(frozen=True, kw_only=True)
class DpoMethod(Method):
    """Direct preference optimization (Rafailov et al. 2023, arXiv 2305.18290) and the losses TRL offers beside it."""

    beta: Annotated[float, Positive]
    """Strength of the pull towards the reference."""
    loss_type: Literal[
        "sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired",
        "apo_zero", "apo_down", "discopop", "sft",
    ]  # fmt: skip
    """TRL's loss of that name."""
    label_smoothing: Annotated[float, Range(least=0, below=0.5)]
    """Assumed share of flipped labels; read by the losses robust, exo_pair, aot and aot_unpaired only."""
    precompute_reference: bool
    """Score the whole data set with the reference once, before training, instead of at every step."""


@dataclass(frozen=True, kw_only=True)
class IpoMethod(DpoMethod):
    """Identity preference optimization (Azar et al. 2024, arXiv 2310.12036, Eq. 17): DPO's pairs and reference, a squared loss."""

    beta: Annotated[float, Positive]
    """τ: the log-ratios of the two responses, each averaged over its tokens, are drawn to a difference of 1/(2τ)."""
    loss_type: Literal["ipo"]
    """The other losses are method=dpo's."""


@dataclass(frozen=True, kw_only=True)
class KtoMethod(Method):
    """Kahneman-Tversky optimization (Ethayarajh et al. 2024, arXiv 2402.01306, Eq. 7 and 8): single responses, each good or bad."""

    beta: Annotated[float, Positive]
    """Strength of the pull towards the reference."""
    desirable_weight: Annotated[float, Positive]
    """λ_D, weight of the desirable rows. The paper wants λ_D·n_D / (λ_U·n_U) between 1 and 4/3, the n being the rows of each kind."""
    undesirable_weight: Annotated[float, Positive]
    """λ_U, weight of the undesirable rows."""


@dataclass(frozen=True, kw_only=True)
class OrpoMethod(Method):
    """Odds-ratio preference optimization (Hong et al. 2024, arXiv 2403.07691, Eq. 6): likelihood of the chosen row, and an odds ratio."""

    beta: Annotated[float, Positive]
    """λ: weight of the odds ratio beside the negative log-likelihood."""


@dataclass(frozen=True, kw_only=True)
class CpoMethod(Method):
    """Contrastive preference optimization (Xu et al. 2024, arXiv 2401.08417): DPO without the reference, and a likelihood term."""

    beta: Annotated[float, Positive]
    """Scale of the difference of the log-probabilities."""
    cpo_alpha: Annotated[float, NotNegative]
    """Weight of the chosen response's negative log-likelihood."""


@dataclass(frozen=True, kw_only=True)
class SimpoMethod(Method):
    """Simple preference optimization (Meng et al. 2024, arXiv 2405.14734, Eq. 6): mean log-probabilities, no reference, a margin."""

    beta: Annotated[float, Positive]
    """Scale of the difference of the mean log-probabilities of a token."""
    gamma: Annotated[float, NotNegative]
    """γ: by how much the chosen response's reward should be the higher."""


@dataclass(frozen=True, kw_only=True)
class SoftMethod(Method):
    """DPO on pairs whose preference is a probability (arXiv 2409.06691)."""

    beta: Annotated[float, Positive]
    """Strength of the pull towards the reference."""


@dataclass(frozen=True, kw_only=True)
class FlowMethod(Method):
    """GFlowNet-DPO (arXiv 2410.15096): the policy's steps and ends in balance with a reward made of the reference and the preference."""

    alpha: Annotated[float, Positive]
    """Weight of the preference: a rejected response's log-reward is lower by alpha times `rejected_reward`."""
    gamma: Annotated[float, Positive]
    """Temperature of the reference where it says how likely a response ends; below 1 its ends are sharper than its own."""
    rejected_reward: Annotated[float, Range(below=0)]
    """Log-reward c of a whole rejected response; a chosen one has 0."""


@dataclass(frozen=True, kw_only=True)
class GdpoMethod(Method):
    """Group Distributional Preference Optimization (arXiv 2412.20299): L = c·L_cal + b·L_bel + p·L_pref."""

    beta: Annotated[float, Positive]
    """Strength of the pull towards the reference in the preference term."""
    calibration_weight: Annotated[float, NotNegative]
    """Weight c of the calibration term: cross-entropy of the beliefs' first tokens against the target shares."""
    belief_weight: Annotated[float, NotNegative]
    """Weight b of the sampled belief's likelihood."""
    preference_weight: Annotated[float, NotNegative]
    """Weight p of the preference between responses given the chosen's belief."""


@dataclass(frozen=True, kw_only=True)
class Condition:
    """Where a reward counts; elsewhere it is 0 (arXiv 2601.05242, Eq. 8)."""

    reward: str
    """Name of the reward it depends on."""
    at_least: float
    """It counts where that reward counts and is so high."""


@dataclass(frozen=True, kw_only=True)
class ListedReward:
    """One of `method.rewards`, apart from the arguments of its class."""

    target: str
    """Dotted path of a subclass of `lexalign.rewards.Reward`."""
    weight: float
    """Its share in the sum; 1 where it is left out. 0 only where others depend on it."""
    name: str | None
    """What metrics and conditions call it; its class's name, as in exact_match, where it is left out."""
    when: Condition | None
    """Where it counts; everywhere where it is left out."""


@dataclass(frozen=True, kw_only=True)
class RewardMethod(Method):
    """Reinforcement on the model's own answers, judged by rewards."""

    rewards: list[Any]
    """What judges the answers: [{_target_: lexalign.rewards.ExactMatch, weight: 1.0, name: …, when: {reward: …, at_least: …}, and the
    class's own arguments}, …]; all but `_target_` may be left out."""
    generations: Annotated[int, Range(least=2)]
    """Answers drawn for each prompt: a group. `train.batch_size` times `train.gradient_accumulation_steps` answers make a step."""
    max_new_tokens: Count
    """Longest answer that is drawn while training; longer ones are cut."""
    temperature: Annotated[float, Positive]
    """Of the draws: above 1 they are more varied, below 1 less."""
    beta: Annotated[float, NotNegative]
    """Strength of the pull towards the reference (a KL term at each token); 0 = none, and no reference is computed."""
    epsilon: Annotated[float, Range(above=0, below=1)]
    """How far from 1 the ratio of new to old probability is followed; read from the second iteration on."""
    loss_type: Literal["dapo", "grpo", "dr_grpo", "bnpo"]
    """How TRL averages the tokens' losses: over all tokens of a step (dapo), within each answer first (grpo), over a constant (dr_grpo),
    over the tokens of a batch (bnpo). TRL's other losses have settings of their own and are left out."""
    iterations: Count
    """Optimizer steps on the same answers."""


@dataclass(frozen=True, kw_only=True)
class GrpoMethod(RewardMethod):
    """Group Relative Policy Optimization (arXiv 2402.03300): the rewards' weighted sum, normalised within each group."""

    scale_rewards: Literal["group", "batch", "none"]
    """What the sum's distance from its group's mean is divided by: its deviation in the group, in the whole step, or nothing."""


@dataclass(frozen=True, kw_only=True)
class GdpoRlMethod(RewardMethod):
    """Group reward-Decoupled normalization Policy Optimization (arXiv 2601.05242): each reward normalised within each group, then the
    weighted sum, normalised over the step."""


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """Which weights are trained."""

    kind: Literal["lora", "qlora", "full"]
    """lora, qlora (lora on a quantized base) or full (every weight, no adapter)."""
    rank: Count | None
    """Rank of the update of each adapted layer; null for full."""
    alpha: Annotated[float, Positive] | None
    """The update is scaled by alpha / rank."""
    dropout: Annotated[float, Range(least=0, below=1)] | None
    """Share of the adapter's inputs dropped while training."""
    target_modules: list[str] | Literal["auto"] | None
    """Names of the layers that get an adapter; auto = every linear layer but the output head."""
    bits: int | None
    """Quantization of the frozen base (qlora): 4 (nf4, double quantization) or 8 (int8)."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """The model the run starts from: a path, or the artifact of a parent experiment."""

    path: str | None
    """Hub id, folder, `.gguf` file, or the folder of an earlier run. `embedded:tiny` is the model inside this package."""
    revision: str | None
    """Branch, tag or commit on the hub."""
    parent: str | None
    """An experiment whose artifact is the model; it runs first unless a finished artifact of the same content exists."""
    parent_overrides: list[str]
    """Overrides for that experiment, as one would type them."""
    tokenizer: str | None
    """Where the tokenizer comes from when not from the model (the base model of weights saved without one)."""
    tokenizer_revision: str | None
    """Branch, tag or commit of the tokenizer on the hub."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"]
    """Type of the loaded weights; auto = bfloat16 where `hardware.precision` is bf16 and only an adapter is trained, else float32."""
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2", "flex_attention"]
    """Implementation of attention; auto = what transformers chooses."""
    trust_remote_code: bool
    """Run Python code that comes with the model; asks for a 40-hex revision."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The names that our columns have in the user's data; null = the data have no such column."""

    text: str | None
    """Plain text to go on with (sft)."""
    messages: str | None
    """A conversation: a list of turns with role and content (sft)."""
    prompt: str | None
    """A question as text, or as the turns before the response."""
    completion: str | None
    """The response that sft trains, or that kto has a label for; for align on pairs, the answer that the model's own is measured
    against (it may be the chosen column)."""
    chosen: str | None
    """The better response (align)."""
    rejected: str | None
    """The worse response (align)."""
    belief: str | None
    """The chosen response's belief: its text or its index in `data.beliefs`."""
    rejected_belief: str | None
    """The rejected response's belief; plain dpo puts it before that response."""
    probabilities: str | None
    """Shares p* of the beliefs for this prompt, in the order of `data.beliefs`."""
    group: str | None
    """Whose beliefs a row shows, where one file holds several groups; each has shares of its own."""
    soft_label: str | None
    """Probability that the chosen response is preferred, 0 to 1 (gdpo_soft, cdpo_soft)."""
    label: str | None
    """Whether the completion is desirable: true or false, 1 or 0 (kto)."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """The rows to train and to evaluate on."""

    path: str | None
    """File, folder with train and test files, or hub id. `embedded:<name>` is a data set inside this package, `generated:reasoning/sft`
    and `generated:reasoning/pairs` are made on first use."""
    revision: str | None
    """Branch, tag or commit on the hub."""
    subset: str | None
    """Configuration name of a hub data set."""
    format: Literal["auto", "json", "jsonl", "csv", "parquet", "hub"]
    """How the files are written; auto = as their ending says, or the hub."""
    split: str
    """Split to train on: `train` is train.* in a folder."""
    eval_split: str | None
    """Held-out split; null = take `eval_fraction` of the training rows."""
    eval_fraction: Share | None
    """Share of the training split held out, by prompt, when there is no `eval_split`."""
    limit: Count | None
    """Use only the first rows of each split."""
    columns: Columns
    """What our columns are called in the data."""
    beliefs: list[str] | None
    """The texts of the beliefs, in the order of the target shares."""
    belief_format: str
    """How a belief stands before its response: `{index}` and `{text}` are filled in."""
    converter: str | None
    """Dotted path of a function that turns one row as stored into one row of our columns, several, or None to leave it out (counted)."""
    chat_template: Literal["auto", "always", "never"]
    """Whether prompts and responses become chat turns; auto = where the tokenizer has a chat template."""
    system: str | None
    """A system message put before every prompt that becomes a chat turn."""


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """The device the run uses."""

    device: Literal["auto", "cpu", "cuda", "mps"]
    """auto = CUDA where there is some, then Apple's GPU, then the CPU."""
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    """Arithmetic of the training step; auto = bf16 on an accelerator that has it, fp32 elsewhere."""
    threads: Count | None
    """CPU threads of each process; null = as many as there are cores, shared out."""
    strategy: Literal["auto", "single", "ddp", "fsdp", "deepspeed"]
    """How several processes share a run. auto = as the GPUs and the step's memory ask for; ddp = each has the model and takes its share of
    every batch; fsdp, deepspeed = the model is shared out too."""
    processes: Count | Literal["auto"]
    """Processes on each node; auto = one for each GPU. `train.batch_size` counts the rows of all of them together."""
    nodes: Count
    """Machines; the same command is typed on each."""
    node: Annotated[int, NotNegative] | None
    """Which of the nodes this is, from 0; null = what Slurm says."""
    rendezvous: str | None
    """host:port of node 0, where the nodes meet."""
    patience: Count
    """Seconds that a node waits for the others."""


@dataclass(frozen=True, kw_only=True)
class Train:
    """The training loop."""

    learning_rate: Annotated[float, Positive]
    """Peak of the schedule."""
    scheduler: Literal["linear", "cosine", "constant", "constant_with_warmup"]
    """Course of the learning rate after the warm-up."""
    optimizer: Literal["adamw_torch", "adamw_8bit", "rmsprop", "adafactor", "sgd"]
    """adamw_8bit (bitsandbytes) keeps its state in 8 bits."""
    batch_size: Count
    """Rows (pairs, for align) a device sees at once."""
    gradient_accumulation_steps: Count
    """Batches a device sees before one optimizer step."""
    epochs: Annotated[float, Positive]
    """Times every row is seen; may be a fraction."""
    max_steps: Count | None
    """Stop after so many optimizer steps, whatever `epochs` says."""
    warmup_steps: Annotated[float, NotNegative]
    """Steps of warm-up; below 1 it is a share of all steps."""
    weight_decay: Annotated[float, NotNegative]
    """Pull of the weights towards zero."""
    max_grad_norm: Annotated[float, Positive]
    """Gradients longer than this are shortened to it."""
    max_length: Annotated[int, Range(least=8)]
    """Longest row in tokens, prompt and response together; longer rows are cut at the end, and counted."""
    packing: bool
    """Put several short rows into one (sft)."""
    save_steps: Count | None
    """Steps between checkpoints; null = one at the end of each epoch."""
    eval_steps: Count | None
    """Steps between evaluations of the held-out loss; null = none while training."""
    log_steps: Count
    """Optimizer steps between two logged lines."""
    keep_checkpoints: Count
    """Newest checkpoints kept."""
    stop_after: Annotated[float, Positive] | None
    """Minutes since the command began after which the run saves and stops with exit code 143 (before a scheduler kills it)."""
    divergence: Literal["stop", "warn", "ignore"]
    """What to do where the loss stays above `divergence_factor` times its running median for `divergence_steps` steps."""
    divergence_factor: Annotated[float, Range(above=1)]
    """How far above the median of the last 100 steps a loss must be."""
    divergence_steps: Count
    """For how many steps in a row."""
    fast_path: bool
    """Compute each prompt once, no padding, and only response tokens at the LM head; the same losses and gradients as without."""
    group_by_length: bool
    """Batches of rows of near-equal length, drawn by seed; false = the batches TRL draws."""
    max_tokens: Count | None
    """Fill batches up to so many tokens instead of `batch_size` rows; a prompt that the responses share counts once."""
    gradient_checkpointing: bool | Literal["auto"]
    """Recompute activations in the backward pass: less memory, more time; auto = where the largest batch does not fit without."""


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """What is looked at before the first step, and which share of the training rows may be wrong before the run is refused."""

    mode: Literal["check", "only", "skip"]
    """check = look, then train; only = look and stop; skip = check nothing but the reference and the memory."""
    max_truncated: AnyShare
    """Rows longer than `train.max_length`."""
    max_untrained: AnyShare
    """Rows without a token that is trained."""
    max_without_ending: AnyShare
    """Rows that are not cut and train no token that ends a response."""
    max_wrong_bos: AnyShare
    """Rows that begin with two BOS, or with none where the tokenizer puts one."""
    max_equal_pairs: AnyShare
    """Pairs whose chosen and rejected sequences are equal, after cutting too."""
    max_overlap: AnyShare
    """Held-out prompts that are training prompts (a share of the held-out ones)."""
    round_trip: bool
    """Save the model, load it again and compare its logits."""


@dataclass(frozen=True, kw_only=True)
class Judge:
    """A model behind an OpenAI-compatible endpoint that compares answers."""

    url: str | None
    """Where it is, up to /chat/completions: http://localhost:8000/v1; null = nothing is judged."""
    model: str | None
    """Its name there."""
    key_env: str | None
    """Name of the environment variable that holds its key; null = none is sent."""
    prompts: Count
    """At most so many held-out prompts, each asked about twice."""
    against: Literal["reference", "data"]
    """Whose answers the model's are held against: the reference's, or the data's own (the completion, else the chosen response)."""
    timeout: Annotated[float, Positive]
    """Seconds to wait for one answer."""
    retries: Annotated[int, NotNegative]
    """How often a busy or broken answer is asked again, with growing pauses."""
    workers: Count
    """Questions asked at once."""


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """The measurement before and after training, and the whole of stage=evaluate."""

    enabled: bool
    """Measure at all; `evaluate=false` alone says the same."""
    limit: Count | None
    """At most so many held-out rows."""
    batch_size: Count
    """Rows a device scores or answers at once."""
    max_new_tokens: Annotated[int, Range(least=1)]
    """Longest answer that is generated."""
    samples: Annotated[int, NotNegative]
    """Generated samples shown and recorded."""
    draws: Annotated[int, NotNegative]
    """Responses drawn for a prompt, at temperature 1, to measure KL to the reference, length and variety; 0 = do not."""
    draw_prompts: Count
    """At most so many prompts are drawn for."""
    belief_samples: Annotated[int, NotNegative]
    """Responses drawn for each held-out prompt, at temperature 1, to measure beliefs (gdpo)."""
    seed: Annotated[int, Range(least=0, most=2**32 - 1)]
    """Of the drawn responses; one for all runs, so that two models are drawn alike."""
    reference: str | None
    """Model that stage=evaluate holds the measured one against: auto = the one it was trained from, where it is a run of ours; a path as
    `model.path` takes it; null = none."""
    beta: Annotated[float, Positive] | None
    """Scale of the implicit rewards in stage=evaluate; null = the one the model was trained with, 1 for a model trained with none."""
    max_length: Annotated[int, Range(least=8)] | None
    """Longest row in tokens in stage=evaluate; null = the one the model was trained with, else as many as it has positions."""
    judge: Judge
    """Who compares the answers; nobody unless its url is named."""
    tasks: list[str]
    """Tasks of EleutherAI's lm-eval to run as well (pip install -e '.[lm-eval]')."""
    task_dir: str | None
    """Folder with YAML files of tasks of your own for lm-eval."""


@dataclass(frozen=True, kw_only=True)
class Download:
    """`stage=download` fetches what `model` and `data` name."""

    only: Literal["all", "models", "datasets"]
    """Fetch only models or only data sets of what is named."""
    include: list[str]
    """File patterns to fetch; empty = all."""
    exclude: list[str]
    """File patterns to leave out."""
    output_dir: str | None
    """Folder for the files; null = the hub's own cache, where sft and align find them."""
    workers: Count
    """Files fetched at once."""
    retries: Annotated[int, NotNegative]
    """How often a busy or broken answer is asked again, with growing pauses."""


@dataclass(frozen=True, kw_only=True)
class Export:
    """`stage=export` makes a model that stands alone of what a run left: its adapter merged into the base."""

    rows: Count
    """At most so many held-out rows on which the exported model is compared with the one that was trained."""
    max_kl: Annotated[float, Positive]
    """KL(trained ‖ exported) over whole next-token distributions, in nats a token, above which the export is refused."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"]
    """Type of the exported weights; auto = the base's own on the disk."""
    format: Literal["safetensors", "gguf"]
    """How the weights are written; gguf is refused with the llama.cpp command that makes it of the exported folder."""
    push: str | None
    """Repository on the hub (owner/name) that the exported folder is uploaded to; null = none. The token comes from HF_TOKEN or
    `hf auth login`."""
    private: bool
    """Whether that repository is made private."""


@dataclass(frozen=True, kw_only=True)
class Chat:
    """`stage=chat` talks to a model on the terminal."""

    against: str | None
    """A second model that answers everything too: reference = the one the model was trained from; or a path as `model.path` takes it."""
    temperature: Annotated[float, NotNegative]
    """Of the answers: above 1 they are more varied, below 1 less; 0 = always the likeliest token."""
    max_new_tokens: Count
    """Longest answer that is generated."""
    seed: Annotated[int, Range(least=0, most=2**32 - 1)]
    """Of the answers, the same for both models."""
    system: str | None
    """A system message before the conversation; null = the one the model was trained with, where there was one."""


@dataclass(frozen=True, kw_only=True)
class Tracking:
    """Where the run's numbers are shown."""

    target: str
    """Dotted path of the tracker class."""
    project: str | None
    """Project of W&B, or of trackio."""
    entity: str | None
    """W&B user or team; null = the account's own."""
    mode: Literal["auto", "online", "offline"] | None
    """auto = online where a key is configured, offline otherwise."""
    group: str | None
    """Runs shown together; null = the sweep, or the parents' group for a parent."""
    name: str | None
    """null = the overrides of the run."""
    tags: list[str] | None
    """Tags beside those made of the overrides."""
    link_artifacts: bool | None
    """Link a run to the artifacts it starts from and leaves, so that their lineage is drawn. By reference: the address of the manifest on
    this machine and the folder's path are sent, no other file."""
    folder: str | None
    """Where trackio keeps its database; null = where `trackio show` looks for it (TRACKIO_DIR, else below HF_HOME)."""
    init_timeout: Annotated[float, Positive] | None
    """Seconds to wait for the server at the start."""
    finish_timeout: Annotated[float, Positive] | None
    """Seconds to wait for the server at the end."""


@dataclass(frozen=True, kw_only=True)
class Cache:
    """What runs share below `store`: tokenised rows and the reference's log-probabilities."""

    action: Literal["keep", "show", "clear"]
    """keep = use it; show and clear list or empty it instead of running."""
    max_gb: Annotated[float, Positive]
    """Gigabytes each of the two may take; what was longest unused goes first."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Many runs as one: how the points of `-m` are chosen and run. Read by the sweep, not by its runs."""

    folder: str
    """Folder of the sweeps that are given no `output_dir`: each has one below it, found again by what is swept."""
    jobs: Count | Literal["auto"]
    """Runs at a time; auto = one on each GPU, and on the CPU as many as the cores and the memory allow."""
    retry: Literal["failed", "none"]
    """What the same command again does with failed points: failed = runs them again from their checkpoints, none = leaves them."""
    fresh: bool
    """Begin a new sweep: reuse no finished point, of this sweep or of others."""
    seeds: Count | None
    """Repeat every point with the seeds 0 to this number less one; null = the one seed."""
    sampler: Literal["grid", "random", "tpe"]
    """grid = every point; random and tpe (tree-structured Parzen estimator, Optuna's) draw `trials` of them, from intervals too."""
    trials: Count | None
    """Points to draw; null with sampler=grid."""
    objectives: list[str]
    """Metrics to search by, several for their Pareto front; [] = the score of the runs."""
    pruner: Literal["none", "halving", "asha", "median"]
    """Stop bad points early: halving = successive halving in rounds, of the points of a grid; asha = the same without waiting for a round
    to end, by what is known so far; median = points below the median of the others (these two are Optuna's)."""
    prune_on: str
    """What is compared while the runs train: a number of their evaluations every `train.eval_steps`, such as eval_loss."""
    prune_after: Count
    """Evaluations that every point gets."""
    reduction: Annotated[int, Range(least=2)]
    """Of as many points one goes on at each step of the halving."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One run, whole."""

    seed: Annotated[int, Range(least=0, most=2**32 - 1)]
    """Of everything that is drawn: initial adapters, order of the rows, dropout."""
    dry_run: bool
    """Print the plan and stop."""
    verbose: bool
    """Log the libraries' own messages too."""
    resume: str
    """auto = go on with the run in its folder, from its newest whole checkpoint; never = refuse a folder that holds a run; else the run or
    checkpoint to start from, as long as the run has none of its own."""
    resume_allow: list[str]
    """Settings (or groups of them; `model` and `data` for the files they name) that may differ from those the run was begun with."""
    output_dir: str
    """The run's folder (the sweep's, in a multirun)."""
    store: str
    """Folder of what runs share: finished parents, tokenised rows and reference log-probabilities, all by content."""
    compare: list[str]
    """Folders of finished runs: compare their measurements on the same rows instead of running."""
    reproduce: str | None
    """Folder of a finished run: make it again from what it recorded and compare the artifact byte by byte, instead of running."""
    report: str | list[str] | None
    """Folder of a sweep, or folders of sweeps and runs: write report.html and print its table instead of running. One sweep's is written
    into its folder, any other into `output_dir`."""
    report_csv: str | None
    """File.csv for all jobs of that report, a column each setting and each metric."""
    deterministic: Literal["off", "warn", "strict"]
    """Only algorithms that give the same bits each time: strict = refuse others, warn = say where others are used, off = torch's choice
    (on the CPU the same, as far as is known; on CUDA some backward passes add in any order)."""
    cache: Cache
    """How much of that is kept."""
    extensions: list[str]
    """Packages of the user's own whose classes `_target_` may name; read from the command line only."""
    stage: Stage
    """What the run does."""
    method: Method | None
    """How it trains; null where nothing is trained."""
    adapter: Adapter | None
    """Which weights it trains; null where nothing is trained."""
    model: Model
    """What it starts from."""
    data: Data
    """What it trains and measures on."""
    hardware: Hardware
    """What it runs on."""
    tracking: Tracking
    """Where its numbers are shown."""
    train: Train | None
    """The training loop."""
    preflight: Preflight
    """What is looked at before it trains."""
    evaluate: Evaluate
    """The measurement before and after; false = none."""
    download: Download
    """How stage=download fetches."""
    export: Export
    """What stage=export makes."""
    chat: Chat
    """How stage=chat talks."""
    sweep: Sweep
    """How `-m` chooses and runs its points."""
