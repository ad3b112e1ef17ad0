"""How a stage trains: the settings of each method, sft and align."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from lexalign.config.parsing import Range
from lexalign.config.schema.ranges import Count, NotNegative, Positive


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a method needs of the other groups."""

    columns: list[str]
    """Data columns without which the method cannot run."""
    adapter: str | None
    """The adapter kind that the method pins, or null where the user chooses."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """How the model is trained. Settings of a method of its own are checked by the dataclass that its `settings_class` names."""

    name: str
    """What it is called, as in `method=dpo`."""
    stage: str
    """The stage this method belongs to."""
    target: str
    """Dotted path of the trainer class."""
    settings_class: str
    """Dotted path of the dataclass, a subclass of this one, that declares the method's own settings."""
    needs: Needs
    """What it cannot do without."""
    score: list[str]
    """Metrics by preference: the first one that the evaluation yields is the run's score."""


@dataclass(frozen=True, kw_only=True)
class SftMethod(Method):
    """Supervised fine-tuning."""

    loss_on: Literal["auto", "completion", "assistant", "last_turn", "all"]
    """Tokens that are trained: completion = the answer of prompt/completion rows; assistant = every assistant turn, by the
    chat template's generation marks or by prefixes; last_turn = its last assistant turn; all = all tokens. auto = completion, assistant for
    conversations, all for plain text; the run says which. A turn's own `weight` or `train` counts beside it."""


@dataclass(frozen=True, kw_only=True)
class DpoMethod(Method):
    """Direct preference optimization (Rafailov et al. 2023, arXiv 2305.18290) and the losses for pairs beside it."""

    beta: Annotated[float, Positive]
    """Strength of the pull towards the reference."""
    loss_type: Literal[
        "sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired",
        "apo_zero", "apo_down", "discopop", "sft",
    ]  # fmt: skip
    """The loss of each pair; `lexalign/losses.py` has its paper and equation."""
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
