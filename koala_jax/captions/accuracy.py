"""How often a captioner's answers are the truth, word for word: a measure for captions whose wording follows from what is seen."""
import collections

from rich.table import Table

from core_jax.lmm.ask import ask
from core_jax.lmm.generate import generate
from core_jax.lmm.sequence import bucket
from koala_jax.captions.examples import Examples
from koala_jax.captions.schema import Part, prompt


def judge(source: Examples, clips: int, *, batch: int) -> dict[str, dict[str, float]]:
    """For each part: `right`, the share of answers about whole clips that are the reference; and `commonest`, what always giving the
    commonest reference would reach."""
    truth, answers = collections.defaultdict(list), collections.defaultdict(list)
    judged = {clip.name for clip in source.clips[:clips]}
    pairs = [(clip, part) for clip, part in source.parts if clip.name in judged and source.show(clip) is not None]
    for start in range(0, len(pairs), batch):
        some = pairs[start : start + batch]
        questions = [ask(source.model, source.tokenizer, source.show(clip), prompt(part)) for clip, part in some]
        longest = max(len(source.tokenizer.plain(clip.row[part.value])) for clip, part in some)  # a reference's stop token makes one more
        most = min(bucket(longest + 1, 8), source.model.config.decoder.context - max(map(len, questions)))
        questions += questions[-1:] * (batch - len(questions))
        for (clip, part), answer in zip(some, generate(source.model, questions, most=most)):
            truth[part].append(" ".join(clip.row[part.value].split()))
            answers[part].append(" ".join(source.tokenizer.decode(answer).split()))
    share = lambda right: sum(right) / len(right)
    return {
        part.value: {
            "right": share([a == b for a, b in zip(answers[part], truth[part])]),
            "commonest": collections.Counter(truth[part]).most_common(1)[0][1] / len(truth[part]),
            "clips": len(truth[part]),
        }
        for part in Part if truth[part]
    }  # fmt: skip


def table(figures: dict[str, dict[str, float]], clips: str) -> Table:
    """The figures as a table; `clips` says of which."""
    shown = Table(title=f"{clips}, answers that are the reference word for word")
    for name in ("part", "right", "always the commonest", "clips"):
        shown.add_column(name, justify="left" if name == "part" else "right")
    for part, row in figures.items():
        shown.add_row(part.replace("_", " "), f"{row['right']:.0%}", f"{row['commonest']:.0%}", str(row["clips"]))
    return shown
