"""Both scorers once more, in plain PyTorch and under the official tensor names: written from their description, to check ours.

Arrays run (B, C, T, H, W) here and every table is written out, so that nothing of the arrangement is shared with the JAX code.
"""
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BASE = (8, 7, 7)


def relative_position_index() -> Tensor:
    """(392, 392): the row of the position table for query and key of a full window."""
    places = torch.cartesian_prod(*(torch.arange(n) for n in BASE))
    offset = places[:, None] - places[None] + torch.tensor([n - 1 for n in BASE])
    return (offset * torch.tensor([13 * 13, 13, 1])).sum(-1)


def partition(x: Tensor, window) -> Tensor:
    """(B, T, H, W, C) → (B · windows, tokens, C)."""
    B, T, H, W, C = x.shape
    t, h, w = window
    x = x.view(B, T // t, t, H // h, h, W // w, w, C)
    return x.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(-1, t * h * w, C)


def reverse(x: Tensor, window, size) -> Tensor:
    (T, H, W), (t, h, w) = size, window
    x = x.view(-1, T // t, H // h, W // w, t, h, w, x.shape[-1])
    return x.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(-1, T, H, W, x.shape[-1])


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

    def forward(self, x: Tensor, window, gate: Tensor, mask: Tensor | None) -> Tensor:
        B, N, E = x.shape
        q, k, v = self.qkv(x).view(B, N, 3, self.heads, E // self.heads).permute(2, 0, 3, 1, 4)
        scores = (q * (E // self.heads) ** -0.5) @ k.transpose(-2, -1)
        table = self.relative_position_index.view(*BASE, *BASE)
        t, h, w = window
        index = table[:t, :h, :w, :t, :h, :w].reshape(N * N)
        bias = self.relative_position_bias_table[index].view(1, N, N, self.heads)
        if self.fragments:
            inside = self.fragment_position_bias_table[index].view(1, N, N, self.heads)
            bias = gate[..., None] * bias + (1 - gate[..., None]) * inside
        bias = bias.permute(0, 3, 1, 2)
        scores = scores.view(-1, gate.shape[0], self.heads, N, N) + (bias if self.fragments else bias[None])
        if mask is not None:
            scores = scores + mask[None, :, None]
        weights = scores.view(B, self.heads, N, N).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(B, N, E))


class Mlp(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block3D(nn.Module):
    def __init__(self, width: int, heads: int, shifted: bool, fragments: bool):
        super().__init__()
        self.shift = (4, 3, 3) if shifted else (0, 0, 0)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn, self.mlp = WindowAttention3D(width, heads, fragments), Mlp(width)

    def forward(self, x: Tensor, window) -> Tensor:
        size = x.shape[1:4]
        shift = tuple(0 if n <= w else s for n, w, s in zip(size, window, self.shift))
        window = tuple(min(n, w) for n, w in zip(size, window))
        padded = tuple(math.ceil(n / w) * w for n, w in zip(size, window))
        y = F.pad(self.norm1(x), (0, 0, 0, padded[2] - size[2], 0, padded[1] - size[1], 0, padded[0] - size[0]))
        back = tuple(-s for s in shift)
        y = partition(torch.roll(y, back, (1, 2, 3)), window)

        rows = (torch.arange(padded[1]) * window[1]).div(padded[1], rounding_mode="floor")
        columns = (torch.arange(padded[2]) * window[2]).div(padded[2], rounding_mode="floor")
        place = torch.stack([rows[:, None].expand(padded[1:]), columns[None].expand(padded[1:])], -1)
        place = place[None, None].expand(1, padded[0], -1, -1, -1).contiguous()
        place = partition(torch.roll(place, back, (1, 2, 3)), window)
        gate = (place[:, :, None] - place[:, None]).abs().sum(-1).float()

        mask = None
        if any(shift):
            region, count = torch.zeros(1, *padded, 1), 0
            parts = [[slice(-w), slice(-w, -s), slice(-s, None)] for w, s in zip(window, shift)]
            for t in parts[0]:
                for h in parts[1]:
                    for w in parts[2]:
                        region[:, t, h, w] = count
                        count += 1
            region = partition(region, window)[..., 0]
            mask = torch.where(region[:, :, None] == region[:, None], 0.0, -100.0)
        y = torch.roll(reverse(self.attn(y, window, gate, mask), window, padded), shift, (1, 2, 3))
        x = x + y[:, : size[0], : size[1], : size[2]]
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
    def __init__(self, width: int, depth: int, heads: int, fragments: bool, last: bool):
        super().__init__()
        self.blocks = nn.ModuleList(Block3D(width, heads, i % 2 == 1, fragments) for i in range(depth))
        self.downsample = None if last else PatchMerging(width)


class PatchEmbed(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.proj, self.norm = nn.Conv3d(3, width, (2, 4, 4), (2, 4, 4)), nn.LayerNorm(width)


class TorchSwin3D(nn.Module):
    def __init__(self, width: int, depths, heads):
        super().__init__()
        last = len(depths) - 1
        self.patch_embed = PatchEmbed(width)
        self.layers = nn.ModuleList(
            BasicLayer(width * 2**i, depth, heads[i], i < last, i == last) for i, depth in enumerate(depths)
        )
        self.norm = nn.LayerNorm(width * 2**last)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, T, H, W) → (B, E, t, h, w)."""
        T, H, W = x.shape[2:]
        window = (8 * T // 32, 7 * H // 224, 7 * W // 224)
        x = F.pad(x, (0, -W % 4, 0, -H % 4, 0, -T % 2))
        x = self.patch_embed.norm(self.patch_embed.proj(x).permute(0, 2, 3, 4, 1))
        for layer in self.layers:
            for block in layer.blocks:
                x = block(x, window)
            x = x if layer.downsample is None else layer.downsample(x)
        return self.norm(x).permute(0, 4, 1, 2, 3)


class VQAHead(nn.Module):
    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc_hid, self.fc_last = nn.Conv3d(width, hidden, 1), nn.Conv3d(hidden, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc_last(F.gelu(self.fc_hid(x)))


class TorchVideoScorer(nn.Module):
    """The released network."""

    def __init__(self, width=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24), hidden=64):
        super().__init__()
        self.fragments_backbone = TorchSwin3D(width, depths, heads)
        self.vqa_head = VQAHead(width * 2 ** (len(depths) - 1), hidden)

    def forward(self, fragments: Tensor) -> Tensor:
        return self.vqa_head(self.fragments_backbone(fragments)).flatten(1).mean(1)


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
    def __init__(self, width: int, depths, classes: int):
        super().__init__()
        widths = [width * 2**i for i in range(len(depths))]
        downs = [nn.Sequential(nn.Conv2d(3, width, 4, 4), ChannelNorm(width, 1e-6))]
        downs += [nn.Sequential(ChannelNorm(a, 1e-6), nn.Conv2d(a, b, 2, 2)) for a, b in zip(widths, widths[1:])]
        self.downsample_layers = nn.ModuleList(downs)
        self.stages = nn.ModuleList(nn.Sequential(*(NeXtBlock(w) for _ in range(n))) for w, n in zip(widths, depths))
        self.norm, self.head = nn.LayerNorm(widths[-1], 1e-6), nn.Linear(widths[-1], classes)

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

    def __init__(
        self, width=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24), static_width=96, static_depths=(3, 3, 9, 3), classes=1000,
        labels=15, label_hidden=(64, 128, 256), static_hidden=512, fused=400, final_hidden=(512, 256, 64),
    ):  # fmt: skip
        super().__init__()
        self.fragments_backbone = TorchSwin3D(width, depths, heads)
        self.image_backbone = TorchConvNeXt(static_width, static_depths, classes)
        self.feature_backbone = Chain((labels, *label_hidden, fused), ("fc1", "fc2", "fc3", "fc4"), "fc_final")
        self.fragments_head = VARHead(width * 2 ** (len(depths) - 1), fused)
        self.image_head = Chain((classes, static_hidden, fused), ("fc1", "fc2"), "fc3")
        self.weight_feature_fusion = Fusion(fused)
        self.gate_feature_fusion_static, self.gate_feature_fusion_dynamic = CrossGatingBlock(fused), CrossGatingBlock(fused)
        self.final_mlp = Chain((fused, *final_hidden, 1), ("fc0", "fc1", "fc2", "fc3"))

    def forward(self, fragments: Tensor, image: Tensor, labels: Tensor) -> Tensor:
        label = self.feature_backbone(labels)
        d = self.gate_feature_fusion_dynamic(label, self.fragments_head(self.fragments_backbone(fragments)))
        s = self.gate_feature_fusion_static(label, self.image_head(self.image_backbone(image)))
        w = self.weight_feature_fusion.fc(torch.cat([d, s], 1))
        return self.final_mlp(w[:, :1] * d + w[:, 1:] * s)[:, 0]
