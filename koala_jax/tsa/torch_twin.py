"""Both scorers once more, in plain PyTorch and under the official tensor names: written from their description, to check ours and to race it.

Arrays run (B, C, T, H, W) here and every table is written out, so that nothing of the arrangement is shared with the JAX code.
torch comes with the `reproduce` extra; nothing else of the package imports this file at start-up.
"""
import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from koala_jax.tsa.convnext import ConvNeXtConfig
from koala_jax.tsa.fragments import MEAN, STD
from koala_jax.tsa.model import SuitabilityConfig, VideoScorerConfig
from koala_jax.tsa.swin import SwinConfig

BASE = (8, 7, 7)
VIDEO = (32, 224, 224)


def relative_position_index() -> Tensor:
    """(392, 392): the row of the position table for query and key of a full window."""
    places = torch.cartesian_prod(*(torch.arange(n) for n in BASE))
    offset = places[:, None] - places[None] + torch.tensor([n - 1 for n in BASE])
    return (offset * torch.tensor([13 * 13, 13, 1])).sum(-1)


class Cut(nn.Module):
    """How a block cuts its grid into windows, shifted or not, and what that says of the pairs of tokens in each, made once.

    `index` (N·N) is their row in a table of positions, `gate` (windows, N, N) the fragments from one to the other, `hidden` −100 where
    the roll alone has put them side by side.
    """

    def __init__(self, size: tuple[int, int, int], window: tuple[int, int, int], shifted: bool):
        super().__init__()
        self.size, self.window = size, tuple(min(n, w) for n, w in zip(size, window))
        self.shift = tuple(s if shifted and n > w else 0 for n, w, s in zip(size, window, (4, 3, 3)))
        self.back = tuple(-s for s in self.shift)
        self.padded = tuple(math.ceil(n / w) * w for n, w in zip(size, self.window))
        t, h, w = self.window
        index = relative_position_index().view(*BASE, *BASE)[:t, :h, :w, :t, :h, :w]
        rows, columns = (torch.arange(n).mul(w).div(n, rounding_mode="floor") for n, w in zip(self.padded[1:], self.window[1:]))
        place = torch.stack([rows[:, None].expand(self.padded[1:]), columns[None].expand(self.padded[1:])], -1).float()
        place = self.partition(torch.roll(place[None, None].expand(1, self.padded[0], -1, -1, -1), self.back, (1, 2, 3)))[0]
        region, count = torch.zeros(1, *self.padded, 1), 0
        for t, h, w in itertools.product(*([slice(-w), slice(-w, -s), slice(-s, None)] for w, s in zip(self.window, self.shift))):
            region[:, t, h, w] = count
            count += 1
        region = self.partition(region)[0, ..., 0]
        hidden = torch.where(region[:, :, None] == region[:, None], 0.0, -100.0) if any(self.shift) else None
        self.register_buffer("index", index.flatten(), persistent=False)
        self.register_buffer("gate", torch.cdist(place, place, p=1), persistent=False)
        self.register_buffer("hidden", hidden, persistent=False)

    def pairs(self, table: Tensor) -> Tensor:
        """The row of each pair: (heads, N, N)."""
        return table.t().contiguous().index_select(1, self.index).unflatten(1, self.gate.shape[1:])

    def partition(self, x: Tensor) -> Tensor:
        B, T, H, W, C = x.shape
        t, h, w = self.window
        x = x.reshape(B, T // t, t, H // h, h, W // w, w, C)
        return x.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(B, -1, t * h * w, C)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, H, W, C) → (B, windows, N, C), padded and rolled."""
        T, H, W = (p - n for p, n in zip(self.padded, self.size))
        x = F.pad(x, (0, 0, 0, W, 0, H, 0, T))
        return self.partition(torch.roll(x, self.back, (1, 2, 3)) if any(self.shift) else x)

    def join(self, x: Tensor) -> Tensor:
        """(B, windows, N, C) → (B, T, H, W, C)."""
        (T, H, W), (t, h, w) = self.padded, self.window
        x = x.view(-1, T // t, H // h, W // w, t, h, w, x.shape[-1])
        x = x.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(-1, T, H, W, x.shape[-1])
        x = torch.roll(x, self.shift, (1, 2, 3)) if any(self.shift) else x
        return x[:, : self.size[0], : self.size[1], : self.size[2]]


class WindowAttention3D(nn.Module):
    def __init__(self, width: int, heads: int, fragments: bool):
        super().__init__()
        self.heads = heads
        rows = 15 * 13 * 13
        self.relative_position_bias_table = nn.Parameter(torch.randn(rows, heads) * 0.02)
        if fragments:
            self.fragment_position_bias_table = nn.Parameter(torch.randn(rows, heads) * 0.02)
        self.fragments = fragments
        self.register_buffer("relative_position_index", relative_position_index())
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def bias(self, cut: Cut) -> Tensor:
        """(1, windows · heads, N, N)."""
        bias = cut.pairs(self.relative_position_bias_table)
        if self.fragments:
            bias = torch.lerp(cut.pairs(self.fragment_position_bias_table), bias, cut.gate[:, None])
        if cut.hidden is not None:
            bias = bias + cut.hidden[:, None]
        return bias.expand(len(cut.gate), *bias.shape[-3:]).reshape(1, -1, *bias.shape[-2:])

    def forward(self, x: Tensor, cut: Cut) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(3, 0, 1, 4, 2, 5).flatten(2, 3)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias(cut))  # windows beside heads, so that all clips share the bias
        return self.proj(y.unflatten(1, (-1, self.heads)).transpose(2, 3).flatten(3))


class Mlp(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block3D(nn.Module):
    def __init__(self, width: int, heads: int, fragments: bool):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn, self.mlp = WindowAttention3D(width, heads, fragments), Mlp(width)

    def forward(self, x: Tensor, cut: Cut) -> Tensor:
        x = x + cut.join(self.attn(cut(self.norm1(x)), cut))
        return x + self.mlp(self.norm2(x))


class PatchMerging(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.reduction, self.norm = nn.Linear(4 * width, 2 * width, bias=False), nn.LayerNorm(4 * width)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, 0, 0, x.shape[3] % 2, 0, x.shape[2] % 2))
        corners = x[:, :, 0::2, 0::2], x[:, :, 1::2, 0::2], x[:, :, 0::2, 1::2], x[:, :, 1::2, 1::2]
        return self.reduction(self.norm(torch.cat(corners, -1)))


class BasicLayer(nn.Module):
    def __init__(self, width: int, depth: int, heads: int, cuts: list[Cut], last: bool):
        super().__init__()
        self.cuts = nn.ModuleList(cuts)
        self.blocks = nn.ModuleList(Block3D(width, heads, not last) for _ in range(depth))
        self.downsample = None if last else PatchMerging(width)

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.blocks):
            x = block(x, self.cuts[i % 2])
        return x if self.downsample is None else self.downsample(x)


class PatchEmbed(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.proj, self.norm = nn.Conv3d(3, width, (2, 4, 4), (2, 4, 4)), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        T, H, W = x.shape[2:]
        x = F.pad(x, (0, -W % 4, 0, -H % 4, 0, -T % 2))
        return self.norm(self.proj(x).permute(0, 2, 3, 4, 1))


class TorchSwin3D(nn.Module):
    """For clips of one size, `video`: (T, H, W)."""

    def __init__(self, config: SwinConfig, video: tuple[int, int, int]):
        super().__init__()
        (T, H, W), last = video, len(config.depths) - 1
        window, (T, H, W) = (8 * T // 32, 7 * H // 224, 7 * W // 224), (-(-T // 2), -(-H // 4), -(-W // 4))
        self.patch_embed, self.layers = PatchEmbed(config.width), nn.ModuleList()
        for i, (depth, heads) in enumerate(zip(config.depths, config.heads)):
            cuts = [Cut((T, H, W), window, shifted) for shifted in (False, True)]
            self.layers.append(BasicLayer(config.width * 2**i, depth, heads, cuts, i == last))
            H, W = -(-H // 2), -(-W // 2)
        self.norm = nn.LayerNorm(config.out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, T, H, W) → (B, E, t, h, w)."""
        x = self.patch_embed(x)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x).permute(0, 4, 1, 2, 3)


class VQAHead(nn.Module):
    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc_hid, self.fc_last = nn.Conv3d(width, hidden, 1), nn.Conv3d(hidden, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc_last(F.gelu(self.fc_hid(x)))


class TorchVideoScorer(nn.Module):
    """The released network."""

    def __init__(self, config: VideoScorerConfig = VideoScorerConfig(), video: tuple[int, int, int] = VIDEO):
        super().__init__()
        self.fragments_backbone = TorchSwin3D(config.dynamic, video)
        self.vqa_head = VQAHead(config.dynamic.out, config.hidden)

    def forward(self, fragments: Tensor, image: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        return self.vqa_head(self.fragments_backbone(fragments)).flatten(1).float().mean(1)


class NeXtBlock(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.dwconv, self.norm = nn.Conv2d(width, width, 7, padding=3, groups=width), nn.LayerNorm(width, 1e-6)
        self.pwconv1, self.pwconv2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(torch.full((width,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        return x + (self.gamma * self.pwconv2(F.gelu(self.pwconv1(y)))).permute(0, 3, 1, 2)


class ChannelNorm(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class TorchConvNeXt(nn.Module):
    def __init__(self, config: ConvNeXtConfig):
        super().__init__()
        widths = [config.width * 2**i for i in range(len(config.depths))]
        downs = [nn.Sequential(nn.Conv2d(3, widths[0], 4, 4), ChannelNorm(widths[0], 1e-6))]
        downs += [nn.Sequential(ChannelNorm(a, 1e-6), nn.Conv2d(a, b, 2, 2)) for a, b in zip(widths, widths[1:])]
        self.downsample_layers = nn.ModuleList(downs)
        self.stages = nn.ModuleList(nn.Sequential(*(NeXtBlock(w) for _ in range(n))) for w, n in zip(widths, config.depths))
        self.norm, self.head = nn.LayerNorm(widths[-1], 1e-6), nn.Linear(widths[-1], config.classes)

    def forward(self, x: Tensor) -> Tensor:
        for down, stage in zip(self.downsample_layers, self.stages):
            x = stage(down(x))
        return self.head(self.norm(x.mean((2, 3))))


class Chain(nn.Module):
    """Linear layers under the names given, GELU after each."""

    def __init__(self, widths, names, unused: str | None = None):
        super().__init__()
        self.names = names
        for name, a, b in zip(names, widths, widths[1:]):
            self.add_module(name, nn.Linear(a, b))
        if unused:
            self.add_module(unused, nn.Linear(widths[-1], 1))

    def forward(self, x: Tensor) -> Tensor:
        for name in self.names:
            x = F.gelu(self.get_submodule(name)(x))
        return x


class VARHead(nn.Module):
    def __init__(self, width: int, out: int):
        super().__init__()
        self.fc = nn.Conv3d(width, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.mean((2, 3, 4), keepdim=True)).flatten(1)


class CrossGatingBlock(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        for name in ("Conv_0", "Conv_1", "in_project_x", "out_project_y"):
            self.add_module(name, nn.Linear(width, width))

    def forward(self, label: Tensor, visual: Tensor) -> Tensor:
        u = self.Conv_1(visual)
        g = F.gelu(self.in_project_x(self.Conv_0(label)), approximate="tanh")
        return self.out_project_y(u * g) + u


class Fusion(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.fc = nn.Linear(2 * width, 2)


class TorchSuitabilityScorer(nn.Module):
    """The paper's network."""

    def __init__(self, config: SuitabilityConfig = SuitabilityConfig(), video: tuple[int, int, int] = VIDEO):
        super().__init__()
        E = config.width
        self.fragments_backbone, self.image_backbone = TorchSwin3D(config.dynamic, video), TorchConvNeXt(config.static)
        self.feature_backbone = Chain((config.labels, *config.label_hidden, E), ("fc1", "fc2", "fc3", "fc4"), "fc_final")
        self.fragments_head = VARHead(config.dynamic.out, E)
        self.image_head = Chain((config.static.classes, config.static_hidden, E), ("fc1", "fc2"), "fc3")
        self.weight_feature_fusion = Fusion(E)
        self.gate_feature_fusion_static, self.gate_feature_fusion_dynamic = CrossGatingBlock(E), CrossGatingBlock(E)
        self.final_mlp = Chain((E, *config.final_hidden, 1), ("fc0", "fc1", "fc2", "fc3"))

    def forward(self, fragments: Tensor, image: Tensor, labels: Tensor) -> Tensor:
        label = self.feature_backbone(labels)
        d = self.gate_feature_fusion_dynamic(label, self.fragments_head(self.fragments_backbone(fragments)))
        s = self.gate_feature_fusion_static(label, self.image_head(self.image_backbone(image)))
        w = self.weight_feature_fusion.fc(torch.cat([d, s], 1))
        return self.final_mlp(w[:, :1] * d + w[:, 1:] * s)[:, 0].float()


def twin(config: VideoScorerConfig | SuitabilityConfig, video: tuple[int, int, int] = VIDEO) -> nn.Module:
    """The network for clips of (T, H, W); `koala_jax.tsa.names.to_official` makes its state_dict of our weights."""
    return (TorchSuitabilityScorer if isinstance(config, SuitabilityConfig) else TorchVideoScorer)(config, video)


class TorchPredictor(nn.Module):
    """One score a clip from bytes, as `koala_jax.tsa.predict` makes it: clips (B, T, H, W, 3), images (B, h, w, 3), labels (B, M) or None."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(MEAN))
        self.register_buffer("std", torch.tensor(STD))

    def forward(self, clips: Tensor, images: Tensor, labels: Tensor | None) -> Tensor:
        dtype = next(self.network.parameters()).dtype
        clips, images = (((x.float() - self.mean) / self.std).to(dtype).movedim(-1, 1) for x in (clips, images))  # channels last in memory
        return self.network(clips, images, None if labels is None else labels.to(dtype))
