"""What `sublayer check` shows."""

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from sublayer.model.part import CacheExact
from sublayer.preflight import Check
from sublayer.preflight.calibration import Measured
from sublayer.preflight.kernels import KernelChoice
from sublayer.preflight.layers import Kept, LayerCheck


def show_costs(check: Check, console: Console) -> None:
    """Print a check."""
    vocabulary = f" ({check.vocabulary_from})" if check.vocabulary_from else ""
    console.print(f"legal · {check.device}, {check.dtype} · a vocabulary of {check.vocab_size:,}{vocabulary}")
    for table in (_layers(check), _kernels(check), _costs(check), _memory(check)):
        if not table.row_count:  # of a model directory that does not decode, no kernel is known
            continue
        console.print()
        console.print(table)
    if check.measured is not None:
        console.print()
        console.print(_speed(check.measured))


def explain_decoding(check: Check, console: Console) -> None:
    """Print for each layer what cached decoding keeps, how that grows, and whether it is exact."""
    table = _table("decoding with a cache", "layer", "keeps", "of a token", "grows", "equals full passes")
    for layer in check.layers:
        exact = layer.cache_exact
        if exact is None or layer.keeps is None:
            table.add_row(_numbers(layer), "does not decode", "", "", "" if exact is None else f"no: {exact.reason}")
            continue
        equals = "yes" if exact.length is None else f"up to {exact.length:,}"
        for number, kept in enumerate(layer.keeps.memories):
            first = number == 0
            of_a_token = _bytes(kept.bytes_per_source_token or kept.bytes_per_token)
            holds = f"{kept.sublayer}: {kept.holds}"
            table.add_row(_numbers(layer) if first else "", holds, of_a_token, _growth(kept), equals if first else "")
        if not layer.keeps.memories:
            table.add_row(_numbers(layer), "nothing", "", "", equals)
    sizes = _table("caches of one text", "layer", *(f"{length:,} tokens" for length in check.memory.decoding))
    for layer in check.layers:
        if layer.keeps is not None:
            grown = [layer.keeps.bytes_by_length[length] for length in check.memory.decoding]
            sizes.add_row(_numbers(layer), *map(_bytes, grown))
    console.print()
    console.print(table)
    if check.memory.decoding:
        console.print()
        console.print(sizes)


def _growth(kept: Kept) -> str:
    """How a memory grows with the text."""
    if kept.bytes_per_source_token:
        return "with the source, once"
    if kept.tokens is None:
        return "with each token"
    return f"until {kept.tokens:,} token{'s' if kept.tokens > 1 else ''}, then no more"


def _table(title: str, *columns: str, right: Iterable[str] = ()) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for number, column in enumerate(columns):
        table.add_column(
            column,
            style="" if number else "bold",
            header_style="dim",
            justify="right" if column in right else "left",
            no_wrap=column in right or not number,
        )
    return table


def _layers(check: Check) -> Table:
    table = _table("layers", "layer", "attention", "position", "feed-forward", "parameters", "cache")
    for layer in check.encoder_layers:
        activation = _feed_forward(layer.feed_forward)
        attention, position = _attention(layer.attention), _part(layer.position)
        table.add_row(f"encoder {_numbers(layer)}", attention, position, activation, _parameters(layer), "")
    for layer in check.layers:
        exact = "" if layer.cache_exact in (None, CacheExact()) else f"; exact {layer.cache_exact}"
        across = layer.cross_attention
        table.add_row(
            ("decoder " if check.encoder_layers else "") + _numbers(layer),
            _attention(layer.attention) + (f"; to the source, {_attention(across)}" if across else ""),
            _part(layer.position),
            _feed_forward(layer.feed_forward),
            _parameters(layer),
            _keeps(layer) + exact,
        )
    return table


def _kernels(check: Check) -> Table:
    table = _table("kernels", "layer", "when", "kernel", "why")
    for when in ("training", "decoding"):
        alike: dict[KernelChoice, list[LayerCheck]] = {}
        for layer in (*check.encoder_layers, *check.layers):
            choice = getattr(layer, f"{when}_kernel")
            if choice is not None:
                alike.setdefault(choice, []).append(layer)
        for choice, layers in alike.items():
            named = [("encoder " if layer in check.encoder_layers else "") + _numbers(layer) for layer in layers]
            table.add_row("all" if len(alike) == 1 else ", ".join(named), when, choice.kernel, choice.why)
    return table


def _costs(check: Check) -> Table:
    table = _table("cost", "", "all", "", right=["all"])
    table.show_header = False
    count, flops = check.parameters, check.flops_per_token
    table.add_row("parameters", f"{count.total:,}", f"{count.non_embedding:,} without embeddings")
    if count.active != count.total:
        table.add_row("", f"{count.active:,}", "of them active for a token")
    row = f"a row of {flops.training_length:,} tokens"
    if flops.source_length:
        row += f" behind a source of {flops.source_length:,}"
    table.add_row("FLOPs a token, training", _short(flops.training), f"with every pair of {row}")
    table.add_row("", _short(flops.training_visible), "with the pairs in sight only")
    if flops.training_all_experts != flops.training:
        table.add_row("", _short(flops.training_all_experts), "if every token went to all experts, with every pair")
    for length, value in flops.decoding_by_length.items():
        first = length == next(iter(flops.decoding_by_length))
        table.add_row("FLOPs a token, decoding" if first else "", _short(value), f"behind {length - 1:,} others")
    return table


def _memory(check: Check) -> Table:
    table = _table("memory", "", "all", "", right=["all"])
    table.show_header = False
    memory = check.memory
    table.add_row("weights", _bytes(memory.weights), f"in {check.dtype}")
    for number, (length, n_bytes) in enumerate(memory.decoding.items()):
        table.add_row("" if number else "decoding", _bytes(n_bytes), f"weights, and the caches of {length:,} tokens")
    if memory.training is not None:
        peak = memory.training
        table.add_row("training, at its peak", _bytes(peak.peak), "estimated; of this:")
        rows = "1 row" if peak.sequences == 1 else f"{peak.sequences:,} rows"
        threads = f" in {peak.threads} threads" if peak.threads > 1 else ""
        for name, value in (
            ("weights", peak.weights),
            ("of the optimizer", peak.optimizer),
            (f"gradients{threads}", peak.gradients),
            (f"activations of {rows}{threads}", peak.activations),
            ("freed, and kept by the C library", peak.allocator),
            ("of the libraries", peak.libraries),
            ("copies while the training state is saved", peak.saving),
        ):
            if value:
                table.add_row("", _bytes(value), name)
    elif memory.unknown:
        table.add_row("training", "unknown", memory.unknown)
    return table


def _speed(measured: Measured) -> Table:
    table = _table("speed on this machine", "", "all", "", right=["all"])
    table.show_header = False
    if measured.training_tokens_per_second is not None and measured.training_seconds is not None:
        on = measured.training_measured
        rate = f"{measured.training_tokens_per_second:,.0f}"
        table.add_row("training", rate, "tokens a second" + (f", extrapolated from {on}" if on else ", measured"))
        table.add_row("", _duration(measured.training_seconds), "for all steps, without evaluating and saving")
        table.add_row("", f"{measured.training_utilisation:.0%}", "of the speed of matrix products")
    if measured.decoding_tokens_per_second is not None:
        on = measured.decoding_measured
        rate = f"{measured.decoding_tokens_per_second:,.3g}"
        table.add_row("decoding", rate, "tokens a second" + (f", extrapolated from {on}" if on else ", measured"))
    table.add_row("matrix products", _short(measured.matmul_flops), "FLOPs a second, measured")
    return table


def _parameters(layer: LayerCheck) -> str:
    active = f", {layer.active:,} active" if layer.active != layer.parameters else ""
    return f"{layer.parameters:,}{active}"


def _numbers(layer: LayerCheck) -> str:
    """Numbers from 0, as in `0–3, 5`."""
    runs: list[list[int]] = []
    for number in layer.layers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)


def _attention(part: Mapping[str, Any]) -> str:
    words = [str(part["kind"])]
    if "n_heads" in part:
        words.append(f"{part['n_heads']} × {part['d_head']}")
        if part.get("n_kv_heads") not in (None, part["n_heads"]):
            words[-1] += f", {part['n_kv_heads']} key/value"
    if part.get("d_latent"):
        words.append(f"of {part['d_latent']} and {part['d_rope']} rotated")
    if "pattern" in part:
        words.append(_part(part["pattern"], "size"))
        if part["pattern"].get("sinks"):
            words[-1] += f" and the first {part['pattern']['sinks']}"
    return "; ".join(words)


def _feed_forward(part: Mapping[str, Any]) -> str:
    if "n_experts" not in part:
        return _part(part, "activation", "d_ff")
    of = f"{part['top_k']} of {part['n_experts']}" if part["top_k"] else str(part["n_experts"])
    words = [f"{of} experts, {_part(part['expert'], 'activation', 'd_ff')}", _part(part["router"])]
    if part["shared"]:
        words.insert(1, f"{part['shared']['n_experts']} shared")
    return "; ".join(words)


def _part(part: Mapping[str, Any], *options: str) -> str:
    """The kind, and these of its options."""
    return " ".join([str(part["kind"]), *(f"{part[name]}" for name in options if part.get(name) is not None)])


def _keeps(layer: LayerCheck) -> str:
    keeps = layer.keeps
    if keeps is None:
        return "does not decode"
    if keeps.tokens is None:
        return f"{_bytes(keeps.bytes_per_token)} a token"
    return f"{_bytes(keeps.bytes_per_token)} a token, at most {keeps.tokens:,}" if keeps.tokens else "nothing"


def _bytes(n_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if n_bytes < 1000 or unit == "TB":
            break
        n_bytes /= 1000
    return f"{n_bytes:.0f} {unit}" if unit == "B" or n_bytes >= 100 else f"{n_bytes:.3g} {unit}"


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.3g} {unit}"
    return f"{seconds:.3g} s"


def _short(value: float) -> str:
    for unit in ("", " k", " M", " G", " T", " P"):
        if value < 1000 or unit == " P":
            break
        value /= 1000
    return f"{value:.3g}{unit}"
