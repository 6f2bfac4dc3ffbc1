"""How a model is trained."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sublayer.config import Config, Count, Flag, Positive, Whole
from sublayer.training.optimizer import OptimizerChoice
from sublayer.training.optimizer.adamw import AdamWConfig
from sublayer.training.schedule import CosineConfig, ScheduleChoice


class LoggingConfig(Config):
    """Where figures go beside `metrics.jsonl`."""

    every: Count = 10
    """Steps between two lines of `metrics.jsonl`."""
    tensorboard: Flag = True
    """Write the same figures for TensorBoard."""
    wandb: Annotated[str, Field(min_length=1)] | None = None
    """Name of a Weights & Biases project to write the same figures to (extra `wandb`); left out, none."""


class TrainingConfig(Config):
    """How a model is trained."""

    init_from: Annotated[str, Field(min_length=1)] | None = None
    """A run or model directory whose weights training starts from.  What `model` leaves out is then that model's, and
    so is the tokenizer where `data.tokenizer` is left out.  null: random weights."""
    steps: Count = 500
    """Optimizer steps."""
    batch_size: Count = 16
    """Sequences in each step."""
    accumulation: Count = 1
    """Micro-batches that a step's sequences are divided into, to save memory; changes nothing but rounding."""
    threads: Count | Literal["auto"] = "auto"
    """Threads that divide each micro-batch among them; auto takes one a core on a CPU, and one elsewhere."""
    seed: Whole = 0
    """Of initial values, data order and dropout."""
    optimizer: OptimizerChoice = AdamWConfig()
    """How the weights are updated."""
    schedule: ScheduleChoice = CosineConfig()
    """The learning rate over the steps."""
    clip_norm: Positive | None = 1.0
    """Largest norm of the gradient of all parameters; a larger one is scaled down.  null: no limit."""
    checkpoint_every: Count = 100
    """Steps between two training states; work killed at any moment loses at most these."""
    keep_checkpoints: Count = 2
    """How many training states are kept, the last ones."""
    evaluate_every: Count = 100
    """Steps between two evaluations on held-out text."""
    evaluation_tokens: Count | None = None
    """Held-out tokens read in an evaluation during training, by domain; the last one reads all.  null: always all."""
    compile: Flag = False
    """Compile the model with torch.compile; on a CPU this needs a C++ compiler."""
    baselines: Flag = True
    """Set a bigram model and lzma beside the final held-out loss."""
    logging: LoggingConfig = LoggingConfig()
    """Where figures go."""

    @model_validator(mode="after")
    def _micro_batches_are_equal(self) -> Self:
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"accumulation ({self.accumulation}) does not divide batch_size ({self.batch_size}); choose a divisor"
            )
        return self
