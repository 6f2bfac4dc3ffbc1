"""`sublayer generate`."""

from typing import Annotated

import typer

from sublayer.cli.opened import Device, Directory, Dtype, Plugins

OWN = "the model's own, or %s"
DRAWING, BEAMS = "Drawing", "Beams"
STOPPING = {"true": True, "false": False, "never": "never"}


def generate(
    directory: Directory,
    prompts: Annotated[
        list[str] | None,
        typer.Argument(metavar="PROMPT …", help="What to go on from; several make a batch.", show_default=False),
    ] = None,
    chat: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Ask a model trained on conversations, instead of a PROMPT.")
    ] = None,
    system: Annotated[
        str | None, typer.Option(metavar="TEXT", help="With --chat: a system message before the question.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens to generate at most.", show_default=OWN % 128)
    ] = None,
    stop: Annotated[list[str] | None, typer.Option(help="End before this text; may be given several times.")] = None,
    special_tokens: Annotated[
        bool, typer.Option("--special-tokens", help="Read and write special tokens by name, such as <extra_id_0>.")
    ] = False,
    repetition_penalty: Annotated[
        float | None, typer.Option(help="Above 1, tokens seen before become less likely.", show_default=OWN % 1)
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="0 takes the likeliest token; 1 the model's own odds.",
            show_default=OWN % 0.8,
            rich_help_panel=DRAWING,
        ),
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(min=1, help="Sample among the k likeliest tokens.", rich_help_panel=DRAWING)
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(help="Sample among the likeliest tokens that hold this mass.", rich_help_panel=DRAWING),
    ] = None,
    min_p: Annotated[
        float | None,
        typer.Option(help="Leave out tokens less likely than this share of the likeliest.", rich_help_panel=DRAWING),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Of the draws.", show_default="a new one each time", rich_help_panel=DRAWING),
    ] = None,
    beams: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Draw nothing: go on with this many of the likeliest texts at once, and take the best.",
            show_default=OWN % 1,
            rich_help_panel=BEAMS,
        ),
    ] = None,
    length_penalty: Annotated[
        float | None,
        typer.Option(
            help="Of a text's score, log-probability / length to this power; above 0 it favours long texts.",
            show_default=OWN % 1,
            rich_help_panel=BEAMS,
        ),
    ] = None,
    early_stopping: Annotated[
        str | None,
        typer.Option(
            metavar="true|false|never",
            help="End when as many texts have ended as there are beams (true), when none that goes on is better now "
            "(false), or when none can become better (never).",
            show_default=OWN % "false",
            rich_help_panel=BEAMS,
        ),
    ] = None,
    n_best: Annotated[
        int | None,
        typer.Option(min=1, help="Show this many of the best texts.", show_default="1", rich_help_panel=BEAMS),
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    plugin: Plugins = None,
) -> None:
    """Let a trained model go on from a prompt, or answer a question; an encoder-decoder makes a text of the prompt.

    Where neither an option nor the model's generation_config.json says how, text is drawn at temperature 0.8.
    """
    from rich.console import Console

    from sublayer.api import generate as generate_text
    from sublayer.cli.opened import check_names, opened
    from sublayer.errors import ConfigError
    from sublayer.generation import generation_config

    check_names(device, dtype)
    if early_stopping is not None and early_stopping not in STOPPING:
        raise ConfigError(f"--early-stopping: must be true, false or never, not '{early_stopping}'.")
    if (chat is None) == (not prompts):
        raise ConfigError(
            "PROMPT: give either a text to go on from or, with --chat, a question; see sublayer generate --help."
        )
    if system is not None and chat is None:
        raise ConfigError("--system: stands before a question, asked with --chat; see sublayer generate --help.")
    given = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "stop": tuple(stop) if stop else None,
        "seed": seed,
        "special_tokens": special_tokens or None,
        "beams": beams,
        "length_penalty": length_penalty,
        "early_stopping": None if early_stopping is None else STOPPING[early_stopping],
        "n_best": n_best,
    }
    model, tokenizer = opened(directory, device, dtype, plugin)
    model.pack()
    config = generation_config(directory, **{name: value for name, value in given.items() if value is not None})
    console = Console(soft_wrap=True, highlight=False, markup=False)

    pending = ""  # what stands before the first piece; when the prompt is refused, nothing does

    def show(row: int, piece: str) -> None:
        nonlocal pending
        console.print(pending, end="", style="bold")
        pending = ""
        console.file.write(piece)
        console.file.flush()

    one = chat is not None or len(prompts or ()) == 1
    streams = one and config.n_best == 1
    told = show if streams else None
    if chat is not None:
        messages = [{"role": "system", "content": system}] if system is not None else []
        completions = [
            generate_text(model, tokenizer, [*messages, {"role": "user", "content": chat}], config, on_text=told)
        ]
    else:
        assert prompts
        pending = prompts[0] if streams and model.encoder is None else ""
        completions = generate_text(model, tokenizer, prompts, config, on_text=told)
    if streams:
        console.print(pending, style="bold")
        return
    for number, completion in enumerate(completions):
        if not one:
            console.rule(f"{number + 1}", align="left")
        for each in (completion, *completion.others):
            if config.n_best > 1:
                console.print(f"{each.log_probability:.2f} nats", style="dim")
            if chat is None:
                console.print(each.prompt, end="" if each.follows else "\n", style="bold")
            console.print(each.text)
