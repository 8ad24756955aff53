"""ASM-Loc's networks: the base network, and the full one with attention (docs/asm_loc.md, section 3).

Shapes: B batch, T time, F features, D hidden channels, C action classes, class C the background.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fast.attention import Between, Inside, distinct, find_places
from fast.conv import Conv1d
from fast.dropout import Dropout
from fast.snippets import NO_BOXES, Snippets


class ASMOutput(NamedTuple):
    score_fg: Tensor  # (B, C+1)
    score_bg: Tensor | None
    attention: Tensor  # (B, T, 2) foreground and background
    logits: Tensor  # (B, T, C+1)
    uncertainty: Tensor | None  # (B, T)


class ASMNet(nn.Module):
    """The base network or the full network of one step. `dtype` is the type of large matrix products.

    Dropout precedes the classifier; with `everywhere`, also the embedding, attention and uncertainty layers.
    """

    def __init__(
        self,
        len_feature: int,
        num_classes: int,
        hidden: int,
        full: bool,
        k_divisors: tuple[int, int],
        dropout: float = 0.7,
        everywhere: bool = False,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__()
        self.dropout, self.everywhere = Dropout(dropout), everywhere
        embedding = [Conv1d(len_feature, hidden, 3, padding=1), nn.ReLU()]
        self.feature_embedding = nn.Sequential(*[self.dropout] * everywhere, *embedding)
        self.att_branch = Conv1d(hidden, 2, 1)
        self.snippet_cls = nn.Linear(hidden, num_classes + 1)
        self.full = full
        if full:
            self.MHSA_Intra, self.MHSA_Inter = Inside(hidden, dtype), Between(hidden, dtype)
            self.uncertainty_branch = Conv1d(hidden, 1, 1, bias=False)
            nn.init.normal_(self.uncertainty_branch.weight, std=1e-4)
        self.k_divisors, self.dtype = k_divisors, dtype

    def forward(self, x: Tensor | Snippets, localized_only: bool = False) -> ASMOutput:
        """Output for features (B, T, F) or `Snippets`; `localized_only` skips what localization does not use."""
        snippets = Snippets.of(x, self.dtype)
        hidden = self.feature_embedding(snippets.dense()).float()
        if self.full:
            size_b, size_t = snippets.index_bt.shape
            places = find_places(snippets.boxes or [NO_BOXES] * size_b, size_t).to(hidden.device)
            hidden = self.MHSA_Inter(self.MHSA_Intra(hidden, places), places)
        maybe = self.dropout if self.everywhere else nn.Identity()
        attention_bt2 = self.att_branch(maybe(hidden)).transpose(1, 2).softmax(dim=2)
        uncertainty_bt = None
        if self.full and not localized_only:
            uncertainty_bt = self.uncertainty_branch(maybe(hidden)).squeeze(1)
        logits = self.classified(hidden.transpose(1, 2))
        score_fg, score_bg = (
            None if localized_only and branch else self.video_score(logits * attention_bt2[:, :, branch : branch + 1], divisor)
            for branch, divisor in enumerate(self.k_divisors)
        )
        assert score_fg is not None
        return ASMOutput(score_fg, score_bg, attention_bt2, logits, uncertainty_bt)

    def classified(self, x_btd: Tensor) -> Tensor:
        """Logits (B, T, C+1) of features (B, T, D). Dropout drops whole times, then single values at the remaining times."""
        size_b, size_t, _ = x_btd.shape
        p = self.dropout.p
        if not self.dropout.training or p in (0, 1):
            return self.snippet_cls(self.dropped(x_btd))
        kept_bt = self.dropout(x_btd.new_ones(size_b, size_t))
        most = math.ceil(size_t * (1 - p) + 6 * (size_t * p * (1 - p)) ** 0.5)  # equal in all processes that share a batch
        if most > size_t or bool(((kept_bt > 0).sum(dim=1) > most).any()):
            most = size_t
        time_bm = kept_bt.argsort(dim=1, descending=True, stable=True)[:, :most]
        flat = (time_bm + size_t * torch.arange(size_b, device=time_bm.device)[:, None]).flatten()
        x_bmd = (distinct(x_btd.flatten(0, 1), flat) * kept_bt.flatten()[flat, None]).view(size_b, most, -1)
        logits_bmc = self.snippet_cls(self.dropped(x_bmd))
        everywhere = self.snippet_cls(x_btd.new_zeros(1, 1, x_btd.shape[2])).expand(size_b, size_t, -1)
        return everywhere.scatter(1, time_bm[:, :, None].expand_as(logits_bmc), logits_bmc)

    def dropped(self, x_btd: Tensor) -> Tensor:
        return self.dropout(x_btd.transpose(1, 2)).transpose(1, 2)

    @staticmethod
    def video_score(cas_btc: Tensor, divisor: int) -> Tensor:
        """(B, C+1) softmax over classes of the mean of each class's k largest values, k = T // divisor."""
        return cas_btc.topk(max(cas_btc.shape[1] // divisor, 1), dim=1).values.mean(dim=1).softmax(dim=1)
