"""Text to tokens and back, by the `tokenizers` library and a directory's tokenizer.json."""
import tokenizers
from etils import epath

from core_jax.lmm.config import LMMConfig

CHAMELEON_ANSWERS = "<reserved08706>"
"""ends a user's turn in Chameleon's chat format; without it the model goes on with the question"""


class Tokenizer:
    """A tokenizer that fits a model."""

    def __init__(self, inner: tokenizers.Tokenizer, config: LMMConfig, name: str = "the tokenizer"):
        """Raises:
        ValueError: it has tokens that the model does not have, or does not know the model's placeholder of an image.
        """
        known = inner.get_vocab(with_added_tokens=True)
        if known and max(known.values()) >= config.decoder.vocabulary:
            raise ValueError(
                f"{name} numbers its tokens up to {max(known.values())}, and the model's vocabulary has {config.decoder.vocabulary}: "
                "they do not belong together"
            )
        self.inner, self.config = inner, config
        self.image = self._placeholder((config.codes or config.packing).image_token, name)
        self.video = None if config.codes else self._placeholder(config.packing.video_token, name)
        self.chat, self.answer = "<|im_start|>" in known, CHAMELEON_ANSWERS if CHAMELEON_ANSWERS in known else "\n"

    def _placeholder(self, token: int, name: str) -> str:
        text = self.inner.id_to_token(token)
        if text is None or self.inner.encode(text, add_special_tokens=False).ids != [token]:
            raise ValueError(f"{name} has no token {token}, the model's placeholder of an image or a video: they do not belong together")
        return text

    def encode(self, text: str) -> list[int]:
        """Tokens, with what the tokenizer puts in front; placeholders may stand in the text."""
        return self.inner.encode(text).ids

    def plain(self, text: str) -> list[int]:
        """Tokens of the text alone."""
        return self.inner.encode(text, add_special_tokens=False).ids

    def decode(self, ids: list[int]) -> str:
        """Text without special tokens."""
        return self.inner.decode([int(i) for i in ids], skip_special_tokens=True).strip()

    def question(self, text: str, placeholders: str) -> list[int]:
        """A user's turn about images or videos, ready to be answered: in Qwen2's chat format, or Chameleon's, where the tokenizer has its marks."""
        if self.chat:
            return self.encode(f"<|im_start|>user {placeholders}\n{text}<|im_end|><|im_start|>assistant\n")
        return self.encode(f"{placeholders}\n{text}{self.answer}")


def read_tokenizer(path: epath.Path) -> tokenizers.Tokenizer:
    """A tokenizer.json, without the padding and cutting that it may ask for: a prompt would be cut in silence.

    Raises:
      ValueError: it cannot be read.
    """
    try:
        read = tokenizers.Tokenizer.from_str(path.read_text())
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"{path} is no tokenizer that can be read: {error}") from error
    read.no_padding()
    read.no_truncation()
    return read


def load_tokenizer(directory: epath.PathLike, config: LMMConfig) -> Tokenizer:
    """The tokenizer of a model's directory.

    Raises:
      ValueError: there is none, it cannot be read, or it does not fit the model.
    """
    path = epath.Path(directory) / "tokenizer.json"
    if not path.exists():
        raise ValueError(f"{path} is missing: a tokenizer in the format of the tokenizers library belongs to the model")
    return Tokenizer(read_tokenizer(path), config, str(path))
