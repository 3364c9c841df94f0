"""What can be wrong with the text of a part, found without looking at the clip."""
import collections
import enum
import re
import unicodedata

from koala_jax.captions.schema import WORDS, Part


class Problem(enum.Enum):
    """One thing that is wrong; its value is how tables name it."""

    MISSING = "missing"
    """no word at all"""
    SHORT = "too short"
    """under a tenth of the words asked for"""
    LONG = "too long"
    """over three times the words asked for"""
    REPEATED = "repeats itself"
    """over a third of its runs of three words stand there before"""
    REFUSED = "refuses"
    """speaks of what its writer cannot do, instead of the clip"""
    SCRIPT = "other script"
    """over a tenth of its letters are not Latin"""


REFUSALS = re.compile(
    r"\b(i('m| am) (sorry|unable|not able)|i (can('t|not)|do(n't| not) (have|see)|won't) |as an ai\b|as a language model"
    r"|unable to (see|view|watch|describe|provide|assist|help)|can('t|not) (help|assist) with"
    r"|no (video|image|frame)s? (was|were|is|are|has been|have been) (provided|attached|uploaded|shared)"
    r"|please (provide|upload|attach|share) (the|a|an|your) (video|image|frame))",
    re.IGNORECASE,
)
QUOTED = re.compile(r'"[^"]*"|“[^”]*”')
"""what the clip says, on a sign for instance, and not its writer"""


def problems(part: Part, text: str) -> list[Problem]:
    """All that is wrong; empty if nothing is."""
    words = re.findall(r"\w+", text.lower())
    if not words:
        return [Problem.MISSING]
    found = []
    if len(words) < WORDS[part] / 10:
        found.append(Problem.SHORT)
    if len(words) > 3 * WORDS[part]:
        found.append(Problem.LONG)
    runs = collections.Counter(zip(words, words[1:], words[2:]))
    if len(words) >= 9 and 3 * sum(n - 1 for n in runs.values()) > runs.total():
        found.append(Problem.REPEATED)
    unquoted = QUOTED.sub("", text)
    if REFUSALS.search((unquoted if re.search(r"\w", unquoted) else text).replace("’", "'")):
        found.append(Problem.REFUSED)
    letters = [c for c in text if c.isalpha()]
    if 10 * sum(not unicodedata.name(c, "").startswith("LATIN") for c in letters) > len(letters):
        found.append(Problem.SCRIPT)
    return found
