"""Sources to tokens to packed batches.

`prepare(DataConfig(...))` gives a `Corpus`.  Names are imported when first used, so that reading a config does not wait
for torch.
"""

from typing import TYPE_CHECKING

from sublayer.lazy import names_of

if TYPE_CHECKING:
    from sublayer.data.config import DataConfig as DataConfig
    from sublayer.data.corpus import Corpus as Corpus
    from sublayer.data.corpus import prepare as prepare
    from sublayer.data.document import Document as Document
    from sublayer.data.document import Segment as Segment
    from sublayer.data.objective import RowShape as RowShape
    from sublayer.data.packing import Batch as Batch
    from sublayer.data.skipped import Skipped as Skipped
    from sublayer.data.sources import SourceConfig as SourceConfig
    from sublayer.data.tokenizer import Tokenizer as Tokenizer
    from sublayer.data.tokenizer import TokenizerConfig as TokenizerConfig

_HOMES = {
    "Batch": "packing",
    "Corpus": "corpus",
    "DataConfig": "config",
    "Document": "document",
    "Segment": "document",
    "RowShape": "objective",
    "Skipped": "skipped",
    "SourceConfig": "sources",
    "Tokenizer": "tokenizer",
    "TokenizerConfig": "tokenizer",
    "prepare": "corpus",
}

__getattr__, __dir__ = names_of(__name__, _HOMES)
