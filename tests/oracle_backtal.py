"""A plain BackTAL to compare with the fast one, in results and in time (benchmarks/bench_backtal.py)."""

import torch
import torch.nn.functional as F

from fast.snippets import Snippets
from methods.backtal import BackTALNetwork, BackTALOutput
from tests.oracles import PlainBaSNet, plain


def gates_of(embedding_bet):
    """(B, 3, T) cosines with the time before, itself and the time after, by the definition of a cosine."""
    beside = F.pad(embedding_bet, (1, 1))
    size_t = embedding_bet.shape[2]
    return torch.stack([F.cosine_similarity(embedding_bet, beside[:, :, j : j + size_t], dim=1) for j in range(3)], dim=1)


def gated_convolution(x_bit, weight_oi3, gates_b3t, layout):
    """Unfold to (B, 3I, T) with row 3c + j for channel c and tap j, tile the gates alike, multiply, one product."""
    size_b, size_i, size_t = x_bit.shape
    unfolded = F.pad(x_bit, (1, 1)).unfold(2, 3, 1).permute(0, 1, 3, 2).reshape(size_b, 3 * size_i, size_t)
    tiled = gates_b3t.repeat_interleave(size_i, dim=1) if layout == "official" else gates_b3t.repeat(1, size_i, 1)
    return torch.matmul(weight_oi3.reshape(len(weight_oi3), -1), unfolded * tiled)


class PlainBackTAL(BackTALNetwork):
    """The same weights, branch by branch."""

    def forward(self, x_btf, localized_only=False):
        x_bft = x_btf.dense() if isinstance(x_btf, Snippets) else x_btf.transpose(1, 2)
        fore_b1t = PlainBaSNet.plain_filter(self, x_bft.transpose(1, 2)).transpose(1, 2)
        embedding = self.embedding_module
        embedding_bet = F.normalize(plain(embedding.conv_2, F.leaky_relu(plain(embedding.conv_1, x_bft), 0.01)), dim=1)
        gates_b3t = gates_of(embedding_bet)
        cas, magnitude = [], None
        for shown in (x_bft, fore_b1t * x_bft):
            first = F.leaky_relu(self.gated(self.base_module.conv_1, shown, gates_b3t), 0.01)
            second = F.leaky_relu(self.gated(self.base_module.conv_2, first, gates_b3t), 0.01)
            dropped = F.dropout(second, self.classifier_module.drop_out.p, self.training)
            cas.append(plain(self.classifier_module.conv, dropped).transpose(1, 2))
            magnitude = first.norm(dim=1)
        score = [c.topk(self.k, dim=1).values.mean(dim=1) for c in cas]
        return BackTALOutput(
            torch.stack(score), torch.stack(cas), embedding_bet.transpose(1, 2), fore_b1t.squeeze(1), magnitude
        )

    def gated(self, layer, x_bit, gates_b3t):
        return gated_convolution(x_bit, layer.weight, gates_b3t, layer.layout)


def losses(output, label_bc, click_bt, config, k, sep_k):
    """Term by term and video by video, with lists."""
    (score_base, score_supp), (cas_base, cas_supp) = output.score_kbc, output.cas_kbtc
    videos = range(len(label_bc))
    present = [[c for c in range(label_bc.shape[1]) if label_bc[b, c] == 1] for b in videos]
    clicks = [[t for t in range(click_bt.shape[1]) if click_bt[b, t] == 1] for b in videos]
    clicked = [b for b in videos if clicks[b]]

    def classify(score, background):
        terms = []
        for b in videos:
            target = torch.cat([label_bc[b], label_bc.new_tensor([background])])
            terms.append(-(target / (target.sum() + 1e-10) * torch.log(score[b].softmax(0))).sum())
        return mean(terms)

    def mean(values):
        return sum(values) / len(values) if values else label_bc.new_zeros(())

    def separation(b):
        terms = []
        for c in present[b]:
            high = cas_base[b, :, c].topk(sep_k).values.mean()
            low = mean([cas_base[b, t, c] for t in clicks[b]])
            terms.append(-torch.log(high.exp() / (high.exp() + low.exp())))
        return mean(terms)

    def embedding(b):
        background = [output.embedding_bte[b, t] for t in clicks[b]]
        action = [output.embedding_bte[b, t] for c in present[b] for t in cas_supp[b, :, c].topk(k).indices]

        def cosines(p, among):
            return torch.stack([(p * q).sum() / torch.clamp(p.norm() * q.norm(), min=1e-8) for q in among])

        same = [mean([F.relu(config.similar_min - cosines(p, own).min()) for p in own]) for own in (action, background)]
        pairs = ((action, background), (background, action))
        apart = [mean([F.relu(cosines(p, other).max() - config.different_max) for p in own]) for own, other in pairs]
        return sum(same) + sum(apart)

    found = {
        "loss_base": classify(score_base, 1.0),
        "loss_supp": classify(score_supp, 0.0),
        "loss_norm": mean([output.fore_bt[b].abs().sum() for b in videos]),
        "loss_click": mean([-torch.log(cas_base[b, t].softmax(0)[-1]) for b in clicked for t in clicks[b]]),
        "loss_sep": mean([separation(b) for b in clicked]),
        "loss_emb": mean([embedding(b) for b in clicked]),
    }
    total = found["loss_base"] + found["loss_supp"] + config.alpha * found["loss_norm"] + found["loss_click"]
    return found | {"loss_total": total + config.sep_weight * found["loss_sep"] + config.emb_weight * found["loss_emb"]}
