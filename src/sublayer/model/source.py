"""The sequence that an encoder reads, for a decoder that attends to it.

Shapes: B batch, S source tokens, D d_model.
"""

from dataclasses import dataclass, field

from torch import Tensor

from sublayer.model.layout import Layout
from sublayer.model.report import EMPTY, Report


@dataclass(frozen=True)
class Source:
    """What an encoder reads.

    Attributes:
        tokens_BS: token ids (int64).
        layout: positions, documents and padding; a decoder's token sees the source tokens of its own document, by
            number, and no padding.
    """

    tokens_BS: Tensor
    layout: Layout = field(default_factory=Layout)


@dataclass(frozen=True)
class Encoded:
    """What an encoder made of it.

    Attributes:
        hidden_BSD: the encoder's output.
        layout: of the source, resolved (it has positions).
        report: what the encoder's sublayers tell.
    """

    hidden_BSD: Tensor
    layout: Layout
    report: Report = EMPTY
