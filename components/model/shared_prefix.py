"""Texts that begin alike in one row, so that what they share is computed once.

A row is the prefix, then what each text has of its own. Every token sees the prefix and its own text before it, at the
positions that they have in a row of their own: so each text's states are those that it would have alone. This takes a
causal model that is told positions and takes a mask of all pairs, and has no sliding window.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from components.model.backbone import attends_plainly, is_causal, takes_position_ids


@dataclass(frozen=True)
class SharedRow:
    """One or more texts in one row.

    Attributes:
        ids, positions: of each token, int64 [T].
        text: which text a token belongs to, from 1; 0: all of them, int64 [T].
        ends: where each text's last token stands.
    """

    ids: np.ndarray
    positions: np.ndarray
    text: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


def common_prefix(texts: Sequence[list[int]]) -> int:
    """How many tokens all texts begin with; of each at least one is left."""
    if not texts:
        return 0
    first, last = min(texts), max(texts)  # what these two share, all in between share
    most = min(map(len, texts)) - 1
    return next((at for at in range(most) if first[at] != last[at]), most)


def shared_row(texts: Sequence[list[int]]) -> SharedRow:
    """The texts behind what they begin with alike."""
    prefix = common_prefix(texts)
    own = [text[prefix:] for text in texts]
    lengths = np.array([len(each) for each in own])
    text = np.repeat(np.arange(len(texts) + 1), [prefix, *lengths])
    positions = np.concatenate([np.arange(prefix), *(prefix + np.arange(length) for length in lengths)])
    ids = np.concatenate([texts[0][:prefix], *own]).astype(np.int64)
    return SharedRow(ids, positions, text, prefix + lengths.cumsum() - 1)


def can_share(model: PreTrainedModel) -> bool:
    """Whether the model's attention takes such rows."""
    return attends_plainly(model) and is_causal(model) and takes_position_ids(model)


def pad_rows(
    rows: Sequence[SharedRow], padding_id: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Rows padded on the right.

    Returns:
        input_ids_BT, position_ids_BT (int64); what is added to the attention's scores, `dtype` [B, 1, T, T]; row and
        place of each text's last token, int64 [N] each, row after row.
    """
    shape = len(rows), max(map(len, rows))
    ids_BT, positions_BT = np.full(shape, padding_id, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    text_BT = np.full(shape, -1)
    for number, row in enumerate(rows):
        at = number, slice(0, len(row))
        ids_BT[at], positions_BT[at], text_BT[at] = row.ids, row.positions, row.text
    row_N = np.repeat(np.arange(len(rows)), [len(row.ends) for row in rows])
    end_N = np.concatenate([row.ends for row in rows])
    input_ids, positions, text, row_of, end = (
        torch.from_numpy(part).to(device) for part in (ids_BT, positions_BT, text_BT, row_N, end_N)
    )
    seen_BTT = (text[:, None, :] == text[:, :, None]) | (text[:, None, :] == 0)
    seen_BTT &= torch.ones(shape[1], shape[1], dtype=torch.bool, device=device).tril()
    added_BTT = torch.zeros(seen_BTT.shape, dtype=dtype, device=device).masked_fill_(
        ~seen_BTT, torch.finfo(dtype).min
    )
    return input_ids, positions, added_BTT[:, None], (row_of, end)
