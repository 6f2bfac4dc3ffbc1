"""How often a training reads each source, in words, and what a person should know of that."""

from sublayer.data.corpus import Corpus
from sublayer.data.rows import Contiguous
from sublayer.data.split import SIDES

MANY = 4.0
"""Times that text can be read again with nearly the gain of new text; beyond, it falls off fast.  Muennighoff et al.
2023, "Scaling data-constrained language models", §1 and fig. 3."""


def epochs_in_words(corpus: Corpus, n_samples: int) -> str:
    """How often each source is read, such as "reads code 0.4 times, notes 7.2 times".

    Args:
        corpus: the data.
        n_samples: rows that training reads: steps times batch size.
    """
    names = _names(corpus)
    told = [f"{name} {_number(epochs)} times" for name, epochs in zip(names, corpus.epochs(n_samples), strict=True)]
    return f"reads {', '.join(told)}"


def warnings(corpus: Corpus, n_samples: int) -> list[str]:
    """A sentence for each thing that may be meant otherwise.

    Args:
        corpus: the data.
        n_samples: rows that training reads: steps times batch size.
    """
    found = []
    for name, epochs in zip(_names(corpus), corpus.epochs(n_samples), strict=True):
        if epochs > MANY:
            found.append(
                f"{name} is read {_number(epochs)} times, where more than {MANY:g} readings gain little "
                "(Muennighoff et al. 2023): give more text, a lower weight or fewer steps."
            )
    length = corpus.config.sequence_length
    for side in SIDES:
        streams = [stream for stream in corpus.shards.streams if stream.side == side]
        truncated = sum(corpus.rows(stream).truncated for stream in streams)
        if truncated:
            documents = sum(s.documents for s in streams if not isinstance(corpus.rows(s), Contiguous))
            what = corpus.config.objective.cut_off(length, side)
            found.append(f"{truncated:,} of {documents:,} {what}")
    return found


def passed_by(corpus: Corpus) -> list[str]:
    """A sentence for each source that was asked to pass damaged documents by, and did."""
    sources = [*corpus.config.sources, *corpus.config.validation]
    found = []
    for source, skipped in zip(sources, corpus.shards.skipped, strict=True):
        reasons = ", ".join(
            f"{reason} ({count:,}, first at {skipped.first[reason]})" for reason, count in skipped.counts.items()
        )
        if reasons:
            found.append(f"the {source.kind_name()} source passed by {skipped.total:,} that are damaged: {reasons}.")
    return found


def _names(corpus: Corpus) -> list[str]:
    """What to call each source: its domains, and its number where another one has the same."""
    domains = [
        " and ".join(sorted({s.domain for s in corpus.shards.streams if s.side == "training" and s.source == number}))
        for number in range(len(corpus.config.sources))
    ]
    return [f"{name} (source {number})" if domains.count(name) > 1 else name for number, name in enumerate(domains)]


def _number(times: float) -> str:
    return f"{times:.1f}" if times >= 0.1 else f"{times:.2g}"
