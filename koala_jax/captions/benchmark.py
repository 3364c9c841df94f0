"""`python -m koala_jax.captions.benchmark`: generated tokens a second against transformers, on the same weights and cores, in one run."""
import dataclasses
import statistics
import tempfile
import time

import jax
import numpy as np
from rich.table import Table

from core_jax import cli
from core_jax.lmm.generate import generate
from core_jax.lmm.load import load
from core_jax.lmm.packing import video
from core_jax.lmm.sequence import lay_out
from core_jax.numbers import COUNT, at_least, refuse


REST = 0.5
"""seconds before each turn, in which the other side's threads stop waiting for work at the cost of this side's"""


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """Time greedy answers about a video by a LLaVA-OneVision with random weights; needs torch and transformers."""

    width: int = 512
    """width of the decoder: 64, 128, 192 or a multiple of 256; the tower is 192 wide"""
    layers: int = 8
    """layers of the decoder"""
    vocabulary: int = 8192
    """tokens that it knows; those of questions are the first thousand, those of images and of videos the last two"""
    frames: int = 4
    """frames of the video, 50 tokens each"""
    text: int = 50
    """tokens of the question"""
    most: int = 64
    """length of an answer, in tokens"""
    batches: tuple[int, ...] = (1, 8)
    """batch sizes that are timed, in videos"""
    rounds: int = 5
    """timed turns of each side, alternating; the median counts"""
    threads: int = 2
    """threads of torch; XLA takes all cores that the process may use"""
    json: str | None = None
    """also write the figures to this file"""

    def __post_init__(self):
        refuse(self, {COUNT: "layers frames text most batches rounds threads", at_least(1002): "vocabulary"})
        if self.width not in (64, 128, 192) and (self.width < 256 or self.width % 256):
            raise ValueError(f"--width {self.width}: 64, 128, 192 or a multiple of 256 is needed, for heads of 64 of which four share a key")


def _written(config: BenchmarkConfig, path: str):
    import torch
    import transformers

    transformers.logging.disable_progress_bar()
    torch.manual_seed(0)
    torch.set_num_threads(config.threads)
    vision = dict(
        model_type="siglip_vision_model", hidden_size=192, intermediate_size=768, num_hidden_layers=4, num_attention_heads=4,
        image_size=112, patch_size=8, vision_use_head=False,
    )  # fmt: skip
    text = dict(
        model_type="qwen2", vocab_size=config.vocabulary, hidden_size=config.width, intermediate_size=5 * config.width,
        num_hidden_layers=config.layers, num_attention_heads=config.width // 64, num_key_value_heads=max(1, config.width // 256),
        max_position_embeddings=4096,
    )  # fmt: skip
    settings = transformers.LlavaOnevisionConfig(
        vision_config=vision, text_config=text, image_token_index=config.vocabulary - 2, video_token_index=config.vocabulary - 1,
        image_grid_pinpoints=[[112, 112]],
    )  # fmt: skip
    model = transformers.LlavaOnevisionForConditionalGeneration(settings).eval()
    model.save_pretrained(path)
    return model


def measure(config: BenchmarkConfig) -> list[dict]:
    """A row for each batch: median tokens a second of both, and whether the answers are the same."""
    import torch

    with tempfile.TemporaryDirectory() as path:
        theirs = _written(config, path)
        ours = load(path).ready()
    rng, rows = np.random.default_rng(0), []
    for batch in config.batches:
        clips = [video(rng.integers(0, 256, (config.frames, 112, 112, 3), np.uint8), ours.config.tower) for _ in range(batch)]
        sequences = [lay_out(ours.config, [*rng.integers(0, 1000, config.text), config.vocabulary - 1, 5], [clip]) for clip in clips]
        pixels = torch.tensor(np.stack([clip.tiles for clip in clips])).permute(0, 1, 4, 2, 3)
        ids = torch.tensor(np.stack([sequence.tokens for sequence in sequences])).long()

        def ask_ours():
            return np.stack(generate(ours, sequences, most=config.most))

        def ask_theirs():
            with torch.inference_mode():
                out = theirs.generate(
                    input_ids=ids, pixel_values_videos=pixels, max_new_tokens=config.most, min_new_tokens=config.most, do_sample=False,
                    attention_mask=torch.ones_like(ids), pad_token_id=0,
                )
            return out[:, ids.shape[1] :].numpy()

        same = float((ask_ours() == ask_theirs()).mean())
        seconds = {ask_ours: [], ask_theirs: []}
        for _ in range(config.rounds):
            for ask, times in seconds.items():
                time.sleep(REST)
                begun = time.perf_counter()
                ask()
                times.append(time.perf_counter() - begun)
        mine, their = (batch * config.most / statistics.median(times) for times in seconds.values())
        ratios = sorted(b / a for a, b in zip(*seconds.values()))
        rows.append({
            "batch": batch, "prompt": ids.shape[1], "tokens a second": mine, "transformers": their,
            "times as fast": statistics.median(ratios), "least": ratios[0], "most": ratios[-1], "same tokens": same,
        })  # fmt: skip
    return rows


def main(args: list[str]) -> None:
    config = cli.parse(BenchmarkConfig, args, "koala_jax.captions.benchmark")
    rows = measure(config)
    table = Table(title=f"{config.layers} layers of {config.width}, fp32, {jax.devices()[0].device_kind}, answers of {config.most} tokens")
    for name in rows[0]:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*(f"{value:.3g}" for value in row.values()))
    console = cli.console()
    console.print(table)
    about = {"layers": config.layers, "width": config.width, "most": config.most, "threads": config.threads, "device": jax.devices()[0].device_kind}
    console.save(config.json, about | {"batches": rows})


if __name__ == "__main__":
    cli.run(main)
