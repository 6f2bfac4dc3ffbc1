"""How many heads there are, and how wide, where a config leaves it out."""


def heads_of(d_model: int, n_heads: int | None, d_head: int | None) -> tuple[int, int]:
    """How many heads there are, d_model / d_head, and how wide, d_model / n_heads; by themselves heads of 64, or one.

    Raises:
        ValueError: when one of them is given and does not divide d_model.
    """
    if n_heads is None:
        width = d_head or (64 if d_model % 64 == 0 else d_model)
        if d_model % width:
            raise ValueError(f"d_head ({width}) does not divide d_model ({d_model}); set n_heads as well")
        n_heads = d_model // width
    if d_head is None:
        if d_model % n_heads:
            raise ValueError(
                f"n_heads ({n_heads}) does not divide d_model ({d_model}); choose a divisor or set d_head too"
            )
        d_head = d_model // n_heads
    return n_heads, d_head


def kv_heads_of(n_heads: int, n_kv_heads: int | None) -> int:
    """How many key/value heads there are; left out, as many as heads.

    Raises:
        ValueError: when heads cannot share them evenly.
    """
    n_kv_heads = n_kv_heads or n_heads
    if n_heads % n_kv_heads:
        raise ValueError(
            f"n_kv_heads ({n_kv_heads}) does not divide n_heads ({n_heads}), so query heads cannot share key/value "
            "heads evenly; choose a divisor"
        )
    return n_kv_heads
