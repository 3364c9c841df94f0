"""The arrangement's public original, diffusers' Wan: its transformer, its autoencoders and its whole pipelines, and ours from the directories that they write."""
import contextlib
import dataclasses
import functools
import importlib.util
import io
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from etils import epath
from PIL import Image

from core_jax import mesh
from core_jax.lora import combine
from core_jax.tensors import load_table
from tests.reproduce.comparison import Difference, relative
from tests.videodit import small, small_autoencoder, small_image_encoder, small_text_encoder
from videodit_jax import convert, experts, lora
from videodit_jax.autoencoder.codec import Codec
from videodit_jax.autoencoder.load import load as load_autoencoder
from videodit_jax.autoencoder.model import Autoencoder, AutoencoderConfig
from videodit_jax.config import Dtype, LoRAConfig
from videodit_jax.convert import load
from videodit_jax.flow import Solver
from videodit_jax.given import then_gray
from videodit_jax.model import ModelConfig, VideoDiT
from videodit_jax.picture import PictureEncoder
from videodit_jax.presets import preset
from videodit_jax.run import load_model, parts
from videodit_jax.sampler import Sampler
from videodit_jax.text import Reads, TextConfig
from videodit_jax.umt5.encoder import TextEncoder

MODEL = ModelConfig(
    width=72, layers=2, heads=3, mlp=100, patch=(1, 2, 2), channels=4, frequencies=32, text=TextConfig(7, small_text_encoder.CONFIG.width, Reads.FEATURES)
)


def random(model: torch.nn.Module, amount: float) -> torch.nn.Module:
    """With every parameter moved, so that none that starts at zero or one hides a mistake."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += amount * torch.randn_like(parameter)
    return model.eval()


def transformer(c: ModelConfig, seed: int = 0) -> torch.nn.Module:
    """diffusers' random transformer of these sizes."""
    from diffusers import WanTransformer3DModel

    torch.manual_seed(seed)
    given = c.channels + (4 if c.gray else 1) if c.given else 0
    read = {"image_dim": c.picture[1], "added_kv_proj_dim": c.width} if any(c.picture) else {}
    made = WanTransformer3DModel(
        patch_size=c.patch, num_attention_heads=c.heads, attention_head_dim=c.width // c.heads, in_channels=c.channels + given,
        out_channels=c.channels, text_dim=c.text.width, freq_dim=c.frequencies, ffn_dim=c.mlp, num_layers=c.layers, **read,
    )  # fmt: skip
    return random(made, 0.1)


def with_lora(c: ModelConfig, model: VideoDiT, wan: torch.nn.Module, folder: str) -> VideoDiT:
    """Our model with random factors beside its maps, and diffusers' with the same, from the file that we write: by its own loader where peft is
    installed, which that needs, or else added to the weights."""
    config = dataclasses.replace(preset("1.3b", autoencoder="wan2.1", text_encoder="umt5-xxl"), model=dataclasses.replace(c, channels=16), lora=LoRAConfig(3, 5.0))
    learned, rest = jax.jit(functools.partial(parts, config))(model)
    learned = small.shaken(learned)
    lora.write(epath.Path(folder) / lora.FILE, config, learned, np.float32)
    if importlib.util.find_spec("peft"):
        wan.load_lora_adapter(folder, weight_name=lora.FILE)
    else:
        file, table = load_table(f"{folder}/{lora.FILE}"), dict(wan.named_parameters())
        with torch.no_grad():
            for name in (name for name in file if name.endswith("lora_A.weight")):
                product = file[name.replace("lora_A", "lora_B")] @ file[name]
                table[name.removeprefix("transformer.").replace("lora_A.", "")] += torch.from_numpy(product)
    return combine(learned, rest)


def compare_wan(given: bool = False, tuned: bool = False) -> Difference:
    """A random Wan 2.1 in diffusers and in ours, from the directory that it writes: predictions, of text-to-video, with frames that are given, or with
    LoRA."""
    c = dataclasses.replace(MODEL, given=given)
    wan = transformer(c)
    with tempfile.TemporaryDirectory() as folder:
        wan.save_pretrained(folder)
        model = load(folder, c, np.zeros(c.text.width))
        model = with_lora(c, model, wan, folder) if tuned else model
    rng = np.random.default_rng(4)
    x = rng.standard_normal((2, 3, 4, 6, c.channels), np.float32)
    text = rng.standard_normal((2, c.text.words, c.text.width), np.float32)
    t = np.array([0.25, 0.9], np.float32)
    frames = rng.standard_normal((2, 3, 4, 6, c.channels + 1), np.float32) if given else x[..., :0]
    tokens = {"features": jnp.asarray(text), "length": jnp.full(2, c.text.words)}
    out = jax.jit(VideoDiT.__call__)(model, x, t, tokens, jnp.full((2, len(c.scores)), jnp.nan), frames if given else None)
    with torch.no_grad():
        theirs = wan(torch.from_numpy(np.concatenate([x, frames], -1)).movedim(-1, 1), torch.from_numpy(1000 * t), torch.from_numpy(text)).sample
    return Difference("diffusers' Wan 2.1" + ", frames given" * given + ", LoRA" * tuned, relative(out, theirs.movedim(1, -1)))


def image_encoder() -> dict[str, Any]:
    """The parts of a pipeline that read a picture, small and random."""
    from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel

    c = small_image_encoder.CONFIG
    sizes = CLIPVisionConfig(
        hidden_size=c.width, intermediate_size=c.mlp, num_hidden_layers=c.layers, num_attention_heads=c.heads, image_size=c.size, patch_size=c.patch,
        hidden_act="gelu",
    )  # fmt: skip
    prepare = CLIPImageProcessorPil(size={"shortest_edge": c.size}, crop_size={"height": c.size, "width": c.size})
    return {"image_encoder": random(CLIPVisionModel(sizes), 0.1), "image_processor": prepare}


def write_pipeline(folder: str, v: AutoencoderConfig, boundary: float | None, gray: bool) -> tuple[Any, dict[str, Any]]:
    """diffusers' whole pipeline, small and random, with such an autoencoder, written to a folder; with a boundary of two experts. A gray one without
    experts reads features of a picture, and its parts for that are saved beside."""
    from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler, WanPipeline
    from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel, logging

    logging.disable_progress_bar()
    seen = small_image_encoder.FEATURES if gray and boundary is None else (0, 0)
    c = dataclasses.replace(MODEL, channels=v.latents.channels, given=gray, gray=gray, picture=seen)
    torch.manual_seed(0)
    sizes = small_text_encoder.CONFIG
    encoder = UMT5EncoderModel(UMT5Config(
        vocab_size=sizes.vocabulary, d_model=sizes.width, num_layers=sizes.layers, num_heads=sizes.heads, d_kv=sizes.head_dim, d_ff=sizes.mlp,
        relative_attention_num_buckets=sizes.buckets, relative_attention_max_distance=sizes.farthest, feed_forward_proj="gated-gelu",
    ))  # fmt: skip
    autoencoder = AutoencoderKLWan(**small_autoencoder.arguments(v))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=small_text_encoder.tokenizer(), pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    multistep = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    pipeline = WanPipeline(
        tokenizer=tokenizer, text_encoder=random(encoder, 0.2), vae=autoencoder, expand_timesteps=v.shortcuts, boundary_ratio=boundary,
        scheduler=multistep if boundary else FlowMatchEulerDiscreteScheduler(shift=3.0), transformer=transformer(c),
        transformer_2=transformer(c, 1) if boundary else None,
    )  # fmt: skip
    pipeline.save_pretrained(folder)
    if not any(seen):
        return pipeline, {}
    reads = image_encoder()
    reads["image_encoder"].save_pretrained(f"{folder}/image_encoder")
    return pipeline, reads


def compare_pipeline(v: AutoencoderConfig, image: bool = False, boundary: float | None = None) -> Difference:
    """A random Wan 2.1, or 2.2 by its autoencoder or of two experts, as a whole, prompt to latents, or prompt and image: diffusers' pipeline, and ours
    converted from the directory that it writes, from the same noise. With Wan 2.2's autoencoder it gives each token its time; two experts have a scale
    each, and UniPC goes from one to the other."""
    from diffusers import WanImageToVideoPipeline

    prompt, away, scales = "a red circle", "the big fox jumps", (4.0, 2.5) if boundary else (4.0,)
    steps, solver = (4, Solver.UNIPC) if boundary else (3, Solver.EULER)
    with tempfile.TemporaryDirectory() as folder:
        pipeline, reads = write_pipeline(folder, v, boundary, gray := image and not v.shortcuts)
        with contextlib.redirect_stdout(io.StringIO()):
            convert.main(["--pipeline", folder, "--out", f"{folder}/ours"])
        size, on, ours = "64x96" if v.shortcuts else "32x48", mesh.build(), None
        sampled = experts.read([f"{folder}/ours"], steps=steps, solver=solver, text_guidance=scales, score_guidance=None, frames=9, size=size)
        few = dataclasses.replace(sampled[0].config.model.text, words=512 if reads else 8)  # of 512, which diffusers wants then, nearly all are zeros
        shape = sampled[0].config.video[1:]
        texts = list(TextEncoder(folder, on, jnp.float32, few.words)([prompt, away]))
        pixels = np.random.default_rng(6).integers(0, 256, (*shape, 3), np.uint8)
        shown = then_gray(pixels[None, None], 9) if gray else pixels[None, None]
        first = Codec(folder, on, jnp.float32).encode(shown) if image else None
        picture = PictureEncoder(folder, on)(pixels[None]) if reads else None
        with jax.set_mesh(on):
            for one in sampled:
                config = dataclasses.replace(one.config, dtype=Dtype.FLOAT32, model=dataclasses.replace(one.config.model, text=few))
                model = load_model(one.folder, dataclasses.replace(one.run, config=config), on)
                ours = Sampler(config, one.run.statistics, on, 1)(model, texts[:1], [{}], [5], None, first, texts[1], one.steps, ours, picture)
    noise = np.array(jax.random.normal(jax.random.key(5), (*config.clip, config.model.channels)))
    read, shown = pipeline.encode_prompt(prompt, away, max_sequence_length=few.words), {"image": Image.fromarray(pixels)} if image else {}
    if image:
        parts = pipeline.components | reads
        pipeline = WanImageToVideoPipeline(**parts, expand_timesteps=v.shortcuts, boundary_ratio=boundary)
    scheduler = pipeline.scheduler
    times = np.linspace(1, 0, steps + 1)[:-1]  # theirs end a little above 0

    def set_timesteps(number, device):
        type(scheduler).set_timesteps(scheduler, number, device, sigmas=times)
        scheduler.timesteps = torch.round(1000 * scheduler.sigmas[:-1], decimals=2)  # UniPC's are whole, and begin at 999

    scheduler.set_timesteps = set_timesteps
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        prompt_embeds=read[0], negative_prompt_embeds=read[1], height=shape[0], width=shape[1], num_frames=9, num_inference_steps=steps,
        guidance_scale=scales[0], guidance_scale_2=scales[1] if boundary else None, latents=torch.from_numpy(noise)[None].movedim(-1, 1),
        output_type="latent", **shown,
    ).frames  # fmt: skip
    which = f"{wan(v)} of two experts" if boundary else wan(v)
    return Difference(f"diffusers' {which} from prompt{' and image' * image} to latents, in float16", relative(ours.astype(np.float32), theirs.movedim(1, -1)))


def wan(autoencoder: AutoencoderConfig) -> str:
    return "Wan 2.2" if autoencoder.shortcuts else "Wan 2.1"


def compare_autoencoder(c: AutoencoderConfig, batch: int = 1) -> Difference:
    """A random autoencoder of Wan 2.1 or 2.2 of diffusers, and ours from the directory that it writes: the worse of latents and pixels."""
    from diffusers import AutoencoderKLWan

    torch.manual_seed(0)
    made, video = AutoencoderKLWan(**small_autoencoder.arguments(c)).eval(), small_autoencoder.video(c, batch)
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        for name, parameter in made.named_parameters():
            if name.endswith(("gamma", "bias")):
                parameter += 0.1 * torch.randn_like(parameter)
        made.save_pretrained(f"{folder}/vae")
        ours = load_autoencoder(folder)
        means = made.encode(torch.from_numpy(video).movedim(-1, 1)).latent_dist.mode()
        pixels = made.decode(means).sample.movedim(1, -1)
    latents = (means.movedim(1, -1).numpy() - np.array(c.mean, np.float32)) / np.array(c.std, np.float32)
    coded, decoded = jax.jit(Autoencoder.encode)(ours, video), jax.jit(Autoencoder.decode)(ours, latents)
    return Difference(f"diffusers' autoencoder of {wan(c)}", max(relative(coded, latents), relative(decoded, pixels)))
