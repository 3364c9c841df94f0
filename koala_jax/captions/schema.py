"""The six parts of a caption, what is asked for each, and how they become one text."""
import dataclasses
import enum
import re


class Part(enum.Enum):
    """One part; its value is the name of its column."""

    SUBJECT = "subject"
    ACTIONS = "actions"
    ENVIRONMENT = "environment"
    VISUAL_LANGUAGE = "visual_language"
    CAMERA_LANGUAGE = "camera_language"
    WORLD_KNOWLEDGE = "world_knowledge"


WORDS = {
    Part.SUBJECT: 45, Part.ACTIONS: 45, Part.ENVIRONMENT: 35, Part.VISUAL_LANGUAGE: 30, Part.CAMERA_LANGUAGE: 25, Part.WORLD_KNOWLEDGE: 20,
}  # fmt: skip
"""words asked for, 200 in all"""

ASKED = {
    Part.SUBJECT: "Who or what is this clip about? Describe the main subject, or each of them: kind, number, look, clothing, colours and "
    "where in the picture it is.",
    Part.ACTIONS: "What does the main subject do, from the first frame to the last? Tell its movements, their direction, pace and order, "
    "and what it touches or changes. Say so if it keeps still.",
    Part.ENVIRONMENT: "Where does this happen? Describe the place, what stands in front of and behind the subject, the weather and the "
    "time of day, as far as they are seen.",
    Part.VISUAL_LANGUAGE: "How does the picture look? Describe its style (filmed, drawn, rendered), composition, colours and light.",
    Part.CAMERA_LANGUAGE: "How is it filmed? Name the size of the shot, the angle, whether the lens seems wide or long, and how the camera "
    "moves, or that it stands still.",
    Part.WORLD_KNOWLEDGE: "What would a well-informed viewer recognise here: a person, a landmark, a species, a work, a sport, an event, a "
    "text in the picture? If nothing can be recognised, say that in one sentence.",
}


def prompt(part: Part) -> str:
    """The question for a part."""
    return (
        f"{ASKED[part]} Write about {WORDS[part]} words of plain English prose in the present tense. State only what these frames of one "
        "video clip show; do not guess, do not mention frames, images or this question, and write no list and no heading."
    )


def whole_sentences(text: str) -> str:
    """An answer that was cut off, up to its last sentence that ends; as it is where none does."""
    ends = [end.end() for end in re.finditer(r"[.!?…][\"”’')]*(?=\s)", text)]
    return text[: ends[-1]] if ends else text


@dataclasses.dataclass(frozen=True)
class Caption:
    """A text for each part; "" where there is none."""

    subject: str = ""
    actions: str = ""
    environment: str = ""
    visual_language: str = ""
    camera_language: str = ""
    world_knowledge: str = ""

    @classmethod
    def of(cls, texts: dict[Part, str]) -> "Caption":
        """From parts; spaces and line breaks become single spaces."""
        return cls(**{part.value: " ".join(text.split()) for part, text in texts.items()})

    def __getitem__(self, part: Part) -> str:
        return getattr(self, part.value)

    @property
    def text(self) -> str:
        """All parts as one text, in order, each ended like a sentence."""
        return " ".join(text if text[-1] in ".!?…" else f"{text}." for text in map(self.__getitem__, Part) if text)
