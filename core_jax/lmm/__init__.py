"""One vision-language model: captioner (koala_jax) and world model (owl_jax).

`config`    sizes, read off a Hugging Face directory       `load`, `save`   weights of such a directory, in and out
`decoder`   the causal decoder, `cache` its cache          `model`          the whole: sequences in, logits out
`tower`     SigLIP and the projector                       `codes`          Chameleon's image tokenizer
`packing`   images and videos as visual tokens             `sequence`       tokens and visual tokens as one batch
`tokenizer` text in and out                                `ask`            a question about frames
`generate`  answers from a batch                           `rows`           linear maps for tokens that come one by one on a CPU
`fresh`     a small model that has learned nothing

What is read is LLaVA-OneVision with Qwen2 and SigLIP (one image at several resolutions, several images, videos, mixed), and
Chameleon as 7B and as 34B has it, without the decoder of its image tokenizer: it reads images and answers in text.
"""
