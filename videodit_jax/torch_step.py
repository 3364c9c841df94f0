"""One training step of the PyTorch twin, doing what `core_jax.state.make_step` and `objective.loss_fn` do.

Only the non-finite guard is missing, which PyTorch pays for with a wait on a GPU.
"""
import copy
import dataclasses

import torch
from torch import Tensor, nn

from videodit_jax.config import Dtype, TrainConfig
from videodit_jax.flow import Target, Times
from videodit_jax.torch_twin import TorchDiT


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A batch with everything that a step draws at random."""

    x0: Tensor
    """clips, (B, T, H, W, C)"""
    eps: Tensor
    """noise of the same shape"""
    t: Tensor
    """(B,)"""
    codes: Tensor
    """bytes of the captions, (B, N, 12)"""
    lengths: Tensor
    """words of the captions, (B,), 0 where dropped"""
    scores: Tensor
    """(B, M), NaN where dropped or unknown"""


def draw(config: TrainConfig, video: Tensor, codes: Tensor, lengths: Tensor, scores: Tensor) -> Drawn:
    """Noise, times and dropped conditions for uint8 clips (B, T, H, W, C)."""
    x0, B, device = video.float() / 127.5 - 1, len(video), video.device
    t = (torch.arange(B, device=device) + torch.rand((), device=device)) / B
    if config.flow.times is Times.LOGIT_NORMAL:
        t = torch.sigmoid(config.flow.mean + config.flow.std * torch.special.ndtri(t.clamp(1e-6, 1 - 1e-6)))
    t = config.flow.shift * t / (1 + (config.flow.shift - 1) * t)
    drawn = torch.rand(B, device=device)
    lengths = lengths * (drawn >= config.caption_dropout)
    dropped = ((drawn - config.caption_dropout / 2) % 1 < config.score_dropout)[:, None] | (torch.rand_like(scores) < config.score_dropout)
    return Drawn(x0, torch.randn_like(x0), t, codes, lengths, scores.masked_fill(dropped, float("nan")))


class TorchStep:
    """AdamW with clipping and a running average around a TorchDiT. PyTorch's fused AdamW, and autocast for bfloat16."""

    def __init__(self, config: TrainConfig, model: TorchDiT, *, compiled: bool = False):
        optimizer = config.optimizer
        matrices = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)}
        groups = [
            {"params": [p for p in model.parameters() if id(p) in matrices], "weight_decay": optimizer.weight_decay},
            {"params": [p for p in model.parameters() if id(p) not in matrices], "weight_decay": 0.0},
        ]
        self.config, self.model, self.average = config, model, copy.deepcopy(model)
        self.optimizer = torch.optim.AdamW(groups, betas=(optimizer.b1, optimizer.b2), eps=1e-8, fused=True)
        self.low = config.dtype.resolve() is Dtype.BFLOAT16
        self.rates = optimizer.learning_rates(config.steps)
        self.loss = torch.compile(self._loss) if compiled else self._loss
        self.step = 0

    def _loss(self, drawn: Drawn) -> Tensor:
        t = drawn.t[:, None, None, None, None]
        x = (1 - t) * drawn.x0 + t * drawn.eps
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.low):
            out = self.model(x, drawn.t, drawn.codes, drawn.lengths, drawn.scores)
        target = {Target.V: drawn.eps - drawn.x0, Target.EPS: drawn.eps, Target.X0: drawn.x0}[self.config.flow.target]
        return ((out.float() - target) ** 2).mean()

    def __call__(self, drawn: Drawn) -> Tensor:
        """One update; its loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = float(self.rates(self.step))
        loss = self.loss(drawn)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optimizer.clip)
        self.optimizer.step()
        decay = min(self.config.optimizer.ema, (1 + self.step) / (10 + self.step))
        average = torch.optim.swa_utils.get_ema_multi_avg_fn(decay)
        average(list(self.average.parameters()), list(self.model.parameters()), None)
        self.step += 1
        return loss.detach()
