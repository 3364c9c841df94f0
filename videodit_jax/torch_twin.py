"""The Video DiT once more, in plain PyTorch: written from the equations, not from the JAX code, to check it and to race it.

  c = time(t) + Σ_m MLP_m(φ(u_m))                                    time and scores, one vector a clip
  (β₁, γ₁, α₁, β₂, γ₂, α₂) = W·silu(c) + table                       the table is each block's own, W is shared
  x ← x + α₁ · SelfAttention(LN(x)·(1 + γ₁) + β₁)                    Wan 2.1's block (arXiv 2503.20314)
  x ← x + CrossAttention(LN(x), text)
  x ← x + α₂ · MLP(LN(x)·(1 + γ₂) + β₂)

torch comes with the `reproduce` extra; nothing else of the package imports this file at start-up.
"""
import math
import re

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core_jax.weights import rename
from videodit_jax.model import ModelConfig

EPS = 1e-6


def sinusoids(x: Tensor, width: int, max_period: float) -> Tensor:
    """[cos(x·f), sin(x·f)], f from 1 down to 1/max_period."""
    f = torch.exp(-math.log(max_period) * torch.arange(width // 2, device=x.device, dtype=torch.float64) / (width // 2)).float()
    angle = x.float()[..., None] * f
    return torch.cat([angle.cos(), angle.sin()], -1)


def rotary_table(grid: tuple[int, int, int], head_dim: int) -> tuple[Tensor, Tensor]:
    """cos and sin, (S, 1, D/2): the first pairs of a head turn with the frame, then a third each with row and column."""
    pairs = head_dim // 2
    sizes = (pairs - 2 * (pairs // 3), pairs // 3, pairs // 3)
    places = torch.cartesian_prod(*(torch.arange(n, dtype=torch.float64) for n in grid)).reshape(-1, 3)
    angles = [places[:, i : i + 1] / 10_000.0 ** (torch.arange(n, dtype=torch.float64) / n) for i, n in enumerate(sizes) if n]
    angle = torch.cat(angles, 1)[:, None].float()
    return angle.cos(), angle.sin()


def waves(grid: tuple[int, int, int], width: int) -> Tensor:
    """Sines of absolute positions, (S, E): a third of the width for frame, row and column each, zeros in what is left."""
    places = torch.cartesian_prod(*(torch.arange(n, dtype=torch.float64) for n in grid)).reshape(-1, 3)
    n = width // 6
    angles = [places[:, i : i + 1] / 10_000.0 ** (torch.arange(n, dtype=torch.float64) / n) for i in range(3)]
    table = torch.cat([f(angle) for angle in angles for f in (torch.cos, torch.sin)], 1)
    return F.pad(table, (0, width - 6 * n)).float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns the pairs (x[i], x[i + D/2]) of (B, S, K, D)."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class SelfAttention(nn.Module):
    """All to all, queries and keys RMS-normed over all heads together, then rotated."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.q_norm, self.k_norm = nn.RMSNorm(width, EPS), nn.RMSNorm(width, EPS)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        q, k, v = (y.unflatten(-1, (self.heads, -1)) for y in (self.q_norm(q), self.k_norm(k), v))
        q, k, v = (y.to(v.dtype).transpose(1, 2) for y in (rotate(q, *rotary), rotate(k, *rotary), v))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """All to the first `lengths` of another sequence; where there are none, only the output's bias is left."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q, self.kv, self.out = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.q_norm, self.k_norm = nn.RMSNorm(width, EPS), nn.RMSNorm(width, EPS)

    def forward(self, x: Tensor, text: Tensor, lengths: Tensor) -> Tensor:
        k, v = self.kv(text).chunk(2, -1)
        q, k = self.q_norm(self.q(x)).to(v.dtype), self.k_norm(k).to(v.dtype)
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in (q, k, v))
        seen = torch.arange(text.shape[1], device=x.device) < lengths.clamp(min=1)[:, None]  # never none: that would be 0/0
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None, None].expand(-1, 1, x.shape[1], -1))
        y = y.transpose(1, 2).flatten(2) * (lengths > 0)[:, None, None]
        return self.out(y)


class FeedForward(nn.Module):
    """Linear, activation, Linear."""

    def __init__(self, sizes: tuple[int, int, int], activation):
        super().__init__()
        self.up, self.down, self.activation = nn.Linear(*sizes[:2]), nn.Linear(*sizes[1:]), activation

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.up(x)))


def gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


class TorchBlock(nn.Module):
    """The last three lines at the top."""

    def __init__(self, width: int, heads: int, mlp: int):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(6, width))
        self.self_attention = SelfAttention(width, heads)
        self.cross_norm = nn.LayerNorm(width, EPS)
        self.cross_attention = CrossAttention(width, heads)
        self.mlp = FeedForward((width, mlp, width), gelu)

    def forward(self, x: Tensor, modulation: Tensor, text: Tensor, lengths: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = (modulation + self.table).to(x.dtype).chunk(6, 1)
        x = x + gate1 * self.self_attention(_norm(x) * (1 + scale1) + shift1, rotary)
        x = x + self.cross_attention(self.cross_norm(x), text, lengths)
        return x + gate2 * self.mlp(_norm(x) * (1 + scale2) + shift2)


def wave_table(lengths: tuple[int, ...]) -> Tensor:
    """(P, P), column i the i-th cosine wave of a box of these sides: cos(π·(x + ½)·k/n) in every dim, of unit length."""
    table = torch.ones(1, 1, dtype=torch.float64)
    for n in lengths:
        k, x = torch.arange(n, dtype=torch.float64)[:, None], torch.arange(n, dtype=torch.float64)
        table = torch.kron(table, F.normalize(torch.cos(math.pi * (x + 0.5) * k / n), dim=1))
    return table.T.float().contiguous()


class WienerFilter(nn.Module):
    """Scales each wave of a patch by a gain that the condition sets."""

    def __init__(self, width: int, box: tuple[int, ...]):
        super().__init__()
        self.gain = nn.Linear(width, math.prod(box))
        self.register_buffer("waves", wave_table(box), persistent=False)

    def forward(self, patches: Tensor, c: Tensor) -> Tensor:
        waves = self.waves.to(patches.dtype)
        return (patches @ waves * self.gain(c)[:, None].to(patches.dtype)) @ waves.T


class TorchDiT(nn.Module):
    """Predicts a flow's target from a noisy video (B, T, H, W, C), times (B,), a text and scores (B, M), NaN
    where unknown; `video` is (T, H, W)."""

    def __init__(self, config: ModelConfig, video: tuple[int, int, int]):
        super().__init__()
        E, words, self.grid = config.width, config.text, config.grid(video)
        pixels = math.prod(config.patch) * config.channels
        self.config = config
        self.text_bytes = nn.Embedding(12 * 255, words.width)
        self.text_places = nn.Parameter(torch.zeros(words.words, words.width))
        self.text_mlp = FeedForward((words.width, 2 * words.width, words.width), gelu)
        self.text_in = FeedForward((words.width, E, E), gelu)
        self.time = FeedForward((config.frequencies, E, E), F.silu)
        self.unknown = nn.Parameter(torch.zeros(len(config.scores), config.frequencies))
        self.scores = nn.ModuleList(FeedForward((config.frequencies, E, E), F.silu) for _ in config.scores)
        self.modulation = nn.Linear(E, 6 * E)
        self.patches = nn.Linear(pixels, E)
        self.blocks = nn.ModuleList(TorchBlock(E, config.heads, config.mlp) for _ in range(config.layers))
        self.table = nn.Parameter(torch.zeros(2, E))
        self.out = nn.Linear(E, pixels)
        self.wiener = WienerFilter(E, (config.channels, *config.patch)) if config.wiener else None
        for name, table in zip(("cos", "sin"), rotary_table(self.grid, E // config.heads)):
            self.register_buffer(name, table, persistent=False)
        self.register_buffer("waves", waves(self.grid, E) if config.absolute else torch.zeros(()), persistent=False)

    def words(self, codes: Tensor) -> Tensor:
        """Features of bytes (B, N, 12): every (place, byte) has a vector, a byte 0 counts nothing."""
        rows = self.text_bytes((codes - 1).clamp(min=0) + 255 * torch.arange(12, device=codes.device))
        x = (rows * (codes > 0)[..., None]).sum(2) + self.text_places
        return x + self.text_mlp(x)

    def condition(self, t: Tensor, scores: Tensor) -> Tensor:
        """c of the first line at the top."""
        phi = sinusoids(2 * math.pi * scores.nan_to_num(), self.config.frequencies, 16.0)
        phi = torch.where(scores.isnan()[..., None], self.unknown, phi)
        c = self.time(sinusoids(1000 * t, self.config.frequencies, 10_000.0))
        return c + sum(mlp(phi[:, m]) for m, mlp in enumerate(self.scores))

    def forward(self, x: Tensor, t: Tensor, codes: Tensor, lengths: Tensor, scores: Tensor) -> Tensor:
        """The prediction, fp32, shaped as x."""
        (pt, ph, pw), (t_grid, h_grid, w_grid), (B, *video, C) = self.config.patch, self.grid, x.shape
        text, c = self.text_in(self.words(codes)), self.condition(t, scores)
        modulation = self.modulation(F.silu(c)).unflatten(1, (6, -1))
        cells = x.reshape(B, t_grid, pt, h_grid, ph, w_grid, pw, C)
        patches = cells.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(B, t_grid * h_grid * w_grid, -1)
        x = self.patches(patches)
        x = x + self.waves.to(x.dtype)
        for block in self.blocks:
            x = block(x, modulation, text, lengths, (self.cos, self.sin))
        shift, scale = (self.table + c[:, None]).to(x.dtype).chunk(2, 1)
        out = self.out(_norm(x) * (1 + scale) + shift)
        if self.wiener is not None:
            out = out + self.wiener(patches, F.silu(c))
        return out.float().reshape(B, *self.grid, C, pt, ph, pw).permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(B, *video, C)


def _norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=EPS)


NAMES = {
    r"^text_(bytes|places)(\.weight)?$": r"text.\1",
    r"^text_mlp\.": "text.",
    r"^text_in\.": "text_",
    r"^time\.": "time_",
    r"^unknown$": "scores.unknown",
    r"^scores\.(\d+)\.": r"scores.mlps.\1.",
    r"norm\.weight$": "norm.scale",
    r"norm\.bias$": "norm.offset",
    r"\.weight$": ".w",
    r"\.bias$": ".b",
}
"""the twin's names in ours, one after the other; a number that is left is a place in an array stacked over layers or scores"""


def twin_weights(twin: nn.Module, weights: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """Our parameters, or their gradients, as a state_dict of the twin.

    Args:
      twin: a TorchDiT, or a part of one.
      weights: what `core_jax.weights.named` gives of the same part of our model; every array of it is used.

    Raises:
      ValueError: an array that the twin wants and is not there, or one that it does not want.
    """
    table, used = {}, set()
    for name, parameter in twin.named_parameters():
        ours = rename(name, NAMES)
        place = re.search(r"\.(\d+)(?=\.)", ours)
        ours = re.sub(r"\.\d+(?=\.)", "", ours)
        if ours not in weights:
            raise ValueError(f"the twin's {name} wants an array {ours}; there are {', '.join(weights)}")
        used.add(ours)
        array = np.array(weights[ours])[int(place[1]) if place else ...]
        linear = ours.endswith(".w")  # ours maps inputs to outputs, torch's rows are outputs
        array = array.reshape(parameter.shape[::-1]).T if linear else array.reshape(parameter.shape)
        table[name] = torch.from_numpy(array.copy())
    if unused := sorted(weights.keys() - used):
        raise ValueError(f"the twin has no place for {', '.join(unused)}")
    return table
