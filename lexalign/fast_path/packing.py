"""Choose the tokens to compute: each token of a batch once, without padding and without a second copy of the prompt."""

from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Layout:
    """N tokens in one row, in groups of a prefix and the branches that continue it. No branch attends to another branch.

    A group is `(prefix, branches)`, as numbers of tokens; a plain sequence is a group without branches. The groups follow each
    other, and the branches of a group follow its prefix.
    """

    tokens: Tensor
    """(N,): the position of each token in the flattened batch."""
    position_ids: Tensor
    """(1, N): the position of each token in its own sequence; all branches start at the end of their prefix."""
    slots: Tensor
    """(R, T): the index of the computed token for each token of the batch; 0 for padding."""
    groups: tuple[tuple[int, tuple[int, ...]], ...]
    read: Tensor | None = None
    """(K,): the tokens whose last hidden states are read, in order; None if all may be read."""
    unread: tuple[int, ...] | None = None
    """The number of first tokens of each group that need no attention, because their states are not read; None if all tokens need it."""
    idle: int = 0
    """Number of tokens at the end that belong to no group and attend to nothing. They make N a multiple of a number."""
    block_masks: dict[int | None, Any] = field(default_factory=dict)
    """Masks of FlexAttention for this layout, by sliding window, made at the first use."""

    def rounded(self, multiple: int) -> "Layout":
        """The same layout, with idle tokens that make N a multiple of `multiple`."""
        idle = -len(self.tokens) % multiple
        position_ids = torch.cat((self.position_ids, self.position_ids.new_zeros(1, idle)), 1)
        return replace(self, tokens=round_up(self.tokens, multiple), position_ids=position_ids, idle=idle)

    @property
    def pieces(self) -> list[int]:
        """Lengths of all prefixes and branches, in the order of the tokens."""
        return [length for prefix, branches in self.groups for length in (prefix, *branches)]

    def mask(self) -> Tensor:
        """(N, N): whether a token (row) may attend to a token (column). For tests; `attention` computes the same in pieces."""
        group, branch = self.labels()
        order = torch.arange(len(group), device=group.device)
        is_own_branch = (branch[None, :] == 0) | (branch[None, :] == branch[:, None])
        return (group[:, None] == group[None, :]) & is_own_branch & (order[None, :] <= order[:, None])

    def labels(self) -> tuple[Tensor, Tensor]:
        """The group (N,) and the branch (N,) of each token; branch 0 is the prefix."""
        labelled_pieces = [
            (group_index, branch_index, length)
            for group_index, (prefix, branches) in enumerate(self.groups)
            for branch_index, length in enumerate((prefix, *branches))
        ]
        lengths = torch.tensor([length for *_, length in labelled_pieces])
        columns = (torch.tensor([label[i] for label in labelled_pieces]).repeat_interleave(lengths) for i in (0, 1))
        group, branch = (column.to(self.tokens.device) for column in columns)
        return group, branch


def round_up(places: Tensor, multiple: int) -> Tensor:
    """Indices (n,) with the last one repeated, so that n is a multiple of `multiple`; no indices stay no indices."""
    return torch.cat((places, places[-1:].expand(-len(places) % multiple)))


def lay_out_shared_prefixes(input_ids: Tensor, lengths: Tensor, *, alike: int) -> Layout:
    """The layout of a batch (R, T) padded on the right, whose rows i, i + R/alike, i + 2R/alike, … continue one prompt.

    The prefix of a group is the common start of all its rows, so it may include tokens of the responses. `lengths` (R,) are the lengths of
    the rows. `alike=1` removes only the padding.
    """
    rows, width = input_ids.shape
    assert rows % alike == 0, f"{rows} rows cannot be {alike} responses to each prompt"
    prompts = rows // alike
    row_lengths = lengths.view(alike, prompts)
    if alike > 1:
        ids = input_ids.view(alike, prompts, width)
        common_lengths = (ids == ids[:1]).all(0).cumprod(1).sum(1)
        common = torch.minimum(common_lengths, row_lengths.amin(0)).tolist()
    sizes = row_lengths.tolist()
    groups, spans, places = [], [], []  # spans: (row, first, length, computed by these rows)
    slot = 0
    for i in range(prompts):
        lengths_of_prompt = [sizes[j][i] for j in range(alike)]
        if alike == 1:
            groups.append((lengths_of_prompt[0], ()))
            spans.append((i, 0, lengths_of_prompt[0]))
            places.append((i, 0, lengths_of_prompt[0], slot))
            slot += lengths_of_prompt[0]
            continue
        prefix = common[i]
        branches = tuple(length - prefix for length in lengths_of_prompt)
        groups.append((prefix, branches))
        spans.append((i, 0, prefix))
        places += [(i + j * prompts, 0, prefix, slot) for j in range(alike)]
        slot += prefix
        for j, length in enumerate(branches):
            row = i + j * prompts
            spans.append((row, prefix, length))
            places.append((row, prefix, length, slot))
            slot += length
    return _laid_out(spans, places, groups, shape=(rows, width), device=input_ids.device)


def lay_out_documents(position_ids: Tensor) -> Layout:
    """The layout of rows (R, T) that each hold several documents. A new document begins where `position_ids` is 0."""
    rows, width = position_ids.shape
    starts = torch.nonzero(position_ids.flatten() == 0)[:, 0].tolist()
    ends = [*starts[1:], rows * width]
    assert starts[0] == 0, "a packed row begins in the middle of a document"
    groups = [(end - start, ()) for start, end in zip(starts, ends, strict=True)]
    all_positions = torch.arange(rows * width, device=position_ids.device)
    return Layout(
        tokens=all_positions, position_ids=position_ids.reshape(1, -1), slots=all_positions.view(rows, width), groups=tuple(groups)
    )


def _laid_out(spans: list, places: list, groups: list, *, shape: tuple[int, int], device: torch.device) -> Layout:
    """The layout of runs of tokens `(row, first, length)` and of their places `(row, first, length, slot)`."""
    width = shape[1]
    lengths = torch.tensor([length for *_, length in spans])
    total = int(lengths.sum())
    offsets = torch.tensor([0, *accumulate(lengths.tolist())][:-1])
    offsets_in_run = torch.arange(total) - offsets.repeat_interleave(lengths)
    firsts = torch.tensor([first for _, first, _ in spans]).repeat_interleave(lengths) + offsets_in_run
    tokens = torch.tensor([row * width for row, *_ in spans]).repeat_interleave(lengths) + firsts
    slots = torch.zeros(shape, dtype=torch.long)
    for row, first, length, slot in places:
        slots[row, first : first + length] = torch.arange(slot, slot + length)
    return Layout(tokens=tokens.to(device), position_ids=firsts[None].to(device), slots=slots.to(device), groups=tuple(groups))
