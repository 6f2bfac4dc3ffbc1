"""What to train on: sources, tokenizer, and how tokens become rows."""

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from sublayer.config import Config, Count, Flag, Share, located
from sublayer.data.objective import OBJECTIVES, CausalConfig, ObjectiveConfig, RowShape
from sublayer.data.sources import SOURCES, EmbeddedConfig, SourceConfig
from sublayer.data.tokenizer import TOKENIZERS, BpeConfig, TokenizerConfig
from sublayer.errors import DataError


def _in_a_list(value: Any) -> Any:
    # `sources: embedded` and `sources: {kind: text, …}` mean a list of one.
    return (value,) if isinstance(value, str | Mapping | SourceConfig) else value


Sources = Annotated[tuple[Annotated[SourceConfig, SOURCES.choice()], ...], BeforeValidator(_in_a_list)]


class DataConfig(Config):
    """Data for training and validation."""

    sources: Annotated[Sources, Field(min_length=1)] = (EmbeddedConfig(),)
    """What to train on; each has a share of the training by its weight."""
    validation: Sources = ()
    """What to validate on; left out, a part of the sources that training never sees."""
    validation_share: Annotated[Share, Field(gt=0, le=0.5)] = 0.05
    """How large that held-out part is."""
    tokenizer: Annotated[TokenizerConfig, TOKENIZERS.choice()] = BpeConfig()
    """Learnt from the training side, or given."""
    objective: Annotated[ObjectiveConfig, OBJECTIVES.choice()] = CausalConfig()
    """What the model is asked."""
    sequence_length: Count = 256
    """T, tokens a row; of an encoder-decoder, a row of the encoder."""
    isolate_documents: Flag = True
    """Documents in the same row do not see one another and count positions from their own start; if not, a row is
    read as one document."""

    @model_validator(mode="after")
    def _refuse_what_would_be_ignored(self) -> Self:
        if self.validation and self.validation_share != type(self).model_fields["validation_share"].default:
            raise ValueError(
                "validation_share has no effect where validation names its own sources; leave one of the two out"
            )
        for number, source in enumerate(self.validation):
            if source.weight != 1.0:
                raise ValueError(
                    f"validation[{number}].weight has no effect (each domain is read once in full); leave it out"
                )
        return self

    @model_validator(mode="after")
    def _suits_the_objective(self) -> Self:
        try:
            self.objective.check(self.sequence_length, self.sources, self.validation)
        except ValueError as error:
            raise located(("objective",), str(error)) from None
        if self.row_shape().one_target and not self.isolate_documents:
            raise located(
                ("isolate_documents",),
                f"false has no effect with the objective {self.objective.kind_name()}, which reads a single text in "
                "each row; leave it out",
            )
        return self

    def row_shape(self) -> RowShape:
        """How large the rows are that a model reads."""
        return self.objective.shape(self.sequence_length, self.isolate_documents)

    def special_tokens(self) -> list[str]:
        """The special tokens that a learnt tokenizer is given for the objective; none where the tokenizer exists."""
        return [] if self.tokenizer.given else [names[0] for names in self.objective.special_tokens()]

    def expected_vocabulary(self) -> int | None:
        """How many tokens there will be at most, as far as that is known before data is read; None when it is not.

        Raises:
            DataError: when the tokenizer is read from a file that is damaged.
        """
        size = self.tokenizer.expected_size()
        return None if size is None else size + len(self.special_tokens())

    def to_read(self) -> list[SourceConfig]:
        """Every source and then every validation source, as they are to be read for this tokenizer and objective."""
        return [
            self.objective.source(source.with_tokenizer(self.tokenizer)) for source in (*self.sources, *self.validation)
        ]

    def chat_template(self) -> str | None:
        """The Jinja template that conversations are written with, if any source holds some; it belongs to the model,
        and so is saved with the tokenizer.

        Raises:
            DataError: when a template cannot be read, or two sources have different ones.
        """
        templates = {template for source in self.to_read() if (template := source.chat_template()) is not None}
        if len(templates) > 1:
            raise DataError(
                "data.sources: two sources write conversations with different chat templates, and a model carries one; "
                "give them the same template."
            )
        return next(iter(templates), None)
