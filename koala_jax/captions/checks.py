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
    """speaks of what its writer cannot or will not do, instead of the clip"""
    THINKS = "thinks aloud"
    """speaks of how to answer, as a model's reasoning does, also where it was cut off"""
    FORM = "not plain prose"
    """a list, a heading, code, marks of a chat, or a word to whoever asked"""
    SCRIPT = "other script"
    """over a tenth of its letters are not Latin"""


UNUSABLE = {Problem.MISSING, Problem.REFUSED, Problem.THINKS}
"""what says nothing of the clip"""

BEGINS = r"(?:^|[.!?]\s+)"
"""of a sentence: what follows is not told of somebody"""

REFUSALS = re.compile(
    r"\b(i('m| am) (sorry|unable|not (able|comfortable|permitted|allowed|going to))|i (can('t|not)|won't) "
    r"|i do(n't| not) (have|see|identify|name|recogni[sz]e|know (who|what|where|which)|provide|speculate|feel comfortable)|i apologi[sz]e\b|my apologies|i('d| would) rather not"
    r"|i ((must|have to|need to|will|'ll) )?((respectfully|politely) )?decline\b|as an ai\b|as a language model|against my (policy|policies|guidelines|programming)"
    r"|can('t|not) (help|assist) with"
    r"|no (video|image|frame|clip)s? ((was|were|is|are|has been|have been) )?(provided|attached|uploaded|shared|included)"
    r"|you (have not|haven't|did not|didn't) (provided?|attach(ed)?|upload(ed)?|shared?|included?)"
    r"|please (provide|upload|attach|share) (the|a|an|your) (video|image|frame|clip))"
    rf"|{BEGINS}(sorry, (but )?(i|the|there)\b|unable to (see|view|watch|describe|identify|provide|assist|help)\b)",
    re.IGNORECASE | re.MULTILINE,
)
ALOUD = r"(okay|ok|alright|hmm+|wait|so|now|first|well|actually|but|got it)[,.!…]*"
THOUGHTS = re.compile(
    r"</?(think|thinking|thought|reasoning|reflection|scratchpad)>"
    r"|\bthe (user|question|prompt|task|instructions?) (wants?|asks?|is asking|says?|requests?|requires?)\b[^.\n]*\b(me|describ\w+|captions?|words|prose|frames)\b"
    rf"|{BEGINS}({ALOUD} +){{0,2}}(let me|let's (look|see|think|start|break|analy\w+|describe|go|count|check)|i('ll| will| need to| should| have to| want to| think| guess))\b"
    rf"|{BEGINS}(wait|hmm+)[,.!…]",
    re.IGNORECASE | re.MULTILINE,
)
HEADINGS = "|".join([*(part.value.replace("_", "[ _]") for part in Part), "action", "camera", "description", "caption", "answer", "assistant", "user"])
ASIDES = re.compile(
    rf"<\|[^|>\n]+\|>|\[/?INST\]|</?(s|answer|tool_call)>|```|^#{{1,6}} |\*\*\w[^*\n]*\*\*|\A\s*(\{{|\[\s*[{{,\]\"])|\A\W*({HEADINGS})\W{{0,3}}(:|\n)"
    r"|\A\W*(sure|certainly|of course|absolutely|great)[,!.:]"
    rf"|{BEGINS}here(('s| is) (the|a|an|my|your)| are)\b[^.\n]*\b(description|caption|summary|breakdown|answer|analysis|overview)",
    re.IGNORECASE | re.MULTILINE,
)
ITEM = re.compile(r"^\s*([-*•–]|\d{1,2}[.)])\s+\S", re.MULTILINE)
"""a line of a list, of which two make one: a single one may begin as "1. FC Köln" does"""
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
    own = (unquoted if re.search(r"\w", unquoted) else text).replace("’", "'")
    if REFUSALS.search(own):
        found.append(Problem.REFUSED)
    if THOUGHTS.search(own):
        found.append(Problem.THINKS)
    if ASIDES.search(own) or len(ITEM.findall(text)) > 1:
        found.append(Problem.FORM)
    letters = [c for c in text if c.isalpha()]
    if 10 * sum(not unicodedata.name(c, "").startswith("LATIN") for c in letters) > len(letters):
        found.append(Problem.SCRIPT)
    return found
