"""Which tokens are computed, once each: a padded batch without its padding, and without the prompt a second time."""

from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Layout:
    """N tokens in one row, in groups of a prefix and the branches that continue it; no branch sees another.

    A group is `(prefix, branches)`, in tokens; a plain sequence is a group without branches. The groups lie one after another, each as
    its prefix and then its branches.
    """

    tokens: Tensor
    """(N,): where each token stands in the flattened batch."""
    position_ids: Tensor
    """(1, N): the token's place in its own sequence; branches all start where their prefix ends."""
    slots: Tensor
    """(R, T): where each token of the batch is computed; 0 for padding."""
    groups: tuple[tuple[int, tuple[int, ...]], ...]
    read: Tensor | None = None
    """(K,): the tokens whose last hidden states are read, in order; None where all may be."""
    unread: tuple[int, ...] | None = None
    """How many of each group's first tokens need not look at anything, because their states are not read; None where all look."""
    idle: int = 0
    """Tokens at the end that belong to no group and look at nothing: they make N a round number."""
    block_masks: dict[int | None, Any] = field(default_factory=dict)
    """FlexAttention's masks of this layout by sliding window, made on first use."""

    def rounded(self, multiple: int) -> "Layout":
        """The same with as many idle tokens as make N a multiple."""
        idle = -len(self.tokens) % multiple
        position_ids = torch.cat((self.position_ids, self.position_ids.new_zeros(1, idle)), 1)
        return replace(self, tokens=round_up(self.tokens, multiple), position_ids=position_ids, idle=idle)

    @property
    def pieces(self) -> list[int]:
        """Lengths of all prefixes and branches in the order in which they lie."""
        return [length for prefix, branches in self.groups for length in (prefix, *branches)]

    def mask(self) -> Tensor:
        """(N, N): which token (row) may look at which (column). What `attention` computes piece by piece; for tests and block masks."""
        group, branch = self.labels()
        order = torch.arange(len(group), device=group.device)
        own = (branch[None, :] == 0) | (branch[None, :] == branch[:, None])
        return (group[:, None] == group[None, :]) & own & (order[None, :] <= order[:, None])

    def labels(self) -> tuple[Tensor, Tensor]:
        """The group (N,) and the branch (N,) of each token; branch 0 is the prefix."""
        numbered = [(g, b, n) for g, (prefix, branches) in enumerate(self.groups) for b, n in enumerate((prefix, *branches))]
        lengths = torch.tensor([n for *_, n in numbered])
        columns = (torch.tensor([label[i] for label in numbered]).repeat_interleave(lengths) for i in (0, 1))
        group, branch = (column.to(self.tokens.device) for column in columns)
        return group, branch


def round_up(places: Tensor, multiple: int) -> Tensor:
    """Indices (n,) with the last one repeated up to a multiple; nothing stays nothing."""
    return torch.cat((places, places[-1:].expand(-len(places) % multiple)))


def lay_out_shared_prefixes(input_ids: Tensor, lengths: Tensor, *, alike: int) -> Layout:
    """The layout of a batch (R, T) padded on the right, whose rows i, i + R/alike, i + 2R/alike, … continue one prompt.

    The prefix of a group is what all its rows have in common, so it may reach into the responses. `lengths` (R,) are the rows' own.
    `alike=1` takes out the padding only.
    """
    rows, width = input_ids.shape
    assert rows % alike == 0, f"{rows} rows cannot be {alike} responses to each prompt"
    prompts = rows // alike
    ends = lengths.view(alike, prompts)
    if alike > 1:
        ids = input_ids.view(alike, prompts, width)
        same = (ids == ids[:1]).all(0).cumprod(1).sum(1)
        common = torch.minimum(same, ends.amin(0)).tolist()
    sizes = ends.tolist()
    groups, spans, places = [], [], []  # spans: (row, first, length, computed by these rows)
    at = 0
    for i in range(prompts):
        own = [sizes[j][i] for j in range(alike)]
        if alike == 1:
            groups.append((own[0], ()))
            spans.append((i, 0, own[0]))
            places.append((i, 0, own[0], at))
            at += own[0]
            continue
        prefix = common[i]
        branches = tuple(length - prefix for length in own)
        groups.append((prefix, branches))
        spans.append((i, 0, prefix))
        places += [(i + j * prompts, 0, prefix, at) for j in range(alike)]
        at += prefix
        for j, length in enumerate(branches):
            row = i + j * prompts
            spans.append((row, prefix, length))
            places.append((row, prefix, length, at))
            at += length
    return _laid_out(spans, places, groups, shape=(rows, width), device=input_ids.device)


def lay_out_documents(position_ids: Tensor) -> Layout:
    """The layout of rows (R, T) that hold several documents each, told apart by positions that begin again at 0."""
    rows, width = position_ids.shape
    starts = torch.nonzero(position_ids.flatten() == 0)[:, 0].tolist()
    ends = [*starts[1:], rows * width]
    assert starts[0] == 0, "a packed row begins in the middle of a document"
    groups = [(end - start, ()) for start, end in zip(starts, ends, strict=True)]
    everything = torch.arange(rows * width, device=position_ids.device)
    return Layout(tokens=everything, position_ids=position_ids.reshape(1, -1), slots=everything.view(rows, width), groups=tuple(groups))


def _laid_out(spans: list, places: list, groups: list, *, shape: tuple[int, int], device: torch.device) -> Layout:
    """The index tensors of runs of tokens `(row, first, length)` and of where they are found `(row, first, length, slot)`."""
    width = shape[1]
    lengths = torch.tensor([length for *_, length in spans])
    total = int(lengths.sum())
    offsets = torch.tensor([0, *accumulate(lengths.tolist())][:-1])
    within = torch.arange(total) - offsets.repeat_interleave(lengths)
    firsts = torch.tensor([first for _, first, _ in spans]).repeat_interleave(lengths) + within
    tokens = torch.tensor([row * width for row, *_ in spans]).repeat_interleave(lengths) + firsts
    slots = torch.zeros(shape, dtype=torch.long)
    for row, first, length, at in places:
        slots[row, first : first + length] = torch.arange(at, at + length)
    return Layout(tokens=tokens.to(device), position_ids=firsts[None].to(device), slots=slots.to(device), groups=tuple(groups))
