"""The kernels of flash attention on GPUs, in Triton: a program computes one block of positions of one head.

Arrays are as the model has them, [B, T, parts, H, K], so nothing is transposed. Scores are in units of ln 2, because
the hardware has exp2. The mask of dropout is that of `dropout.keep_mask`, computed where it is needed.

In causal attention, a loop over other blocks has two phases: one for blocks that are seen as a whole, and one for those
on the diagonal, where the future is masked. Where positions attend both ways, the first phase has all blocks.

Letters: B sequences, T positions, H heads, K head width, Q positions of a program's own block, S of another block.
"""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
# A score without weight. It is finite, since a query may see nothing of a block.
MASKED = tl.constexpr(-1e30)
# The group of what lies behind the end.
NOTHING = tl.constexpr(-2147483648)


@triton.jit
def forward(
    qkv,
    stream,
    groups,
    output,
    logsumexp,
    length: tl.constexpr,
    heads: tl.constexpr,
    width: tl.constexpr,
    own: tl.constexpr,
    other: tl.constexpr,
    context_length: tl.constexpr,
    least: tl.constexpr,
    causal: tl.constexpr,
    grouped: tl.constexpr,
):
    """Computes the attention of one block of queries to the keys they see, by the running softmax.

    Args:
        qkv: bfloat16 [B, T, 3, H, K].
        stream: uint32 [2, B], the offset and the multiplier of each sequence's hash; see `dropout.stream`.
        groups: int32 [B, T], each position sees those of its own group; read only if `grouped`.
        output: bfloat16 [B, T, H, K].
        logsumexp: float32 [B, H, T], of the scores.
        length, heads, width: T, H and K; K is a power of two.
        own, other: Q and S, powers of two, Q a multiple of S.
        context_length: with which dropout counts.
        least: the least hash that keeps a weight; 0 keeps all.
        causal: whether a position sees none behind it.
        grouped: whether groups are kept apart.
    """
    i, h, b = tl.num_programs(0) - 1 - tl.program_id(0), tl.program_id(1), tl.program_id(2)
    first = i * own
    rows = first + tl.arange(0, own)
    keys, values = _head(qkv, b, 1, 3, h, length, heads, width), _head(qkv, b, 2, 3, h, length, heads, width)
    step: tl.constexpr = 3 * heads * width
    offset, multiplier = _hash(stream, b)
    hashed_rows = offset + _index(h, rows, context_length) * multiplier

    q = _load(_head(qkv, b, 0, 3, h, length, heads, width), first, step, own, width, length)
    top = tl.full([own], float("-inf"), tl.float32)
    total = tl.zeros([own], tl.float32)
    sums = tl.zeros([own, width], tl.float32)
    groups += b * length
    row_groups = _groups(groups, rows, length, grouped)
    for diagonal in tl.static_range(2):
        begin = diagonal * (first if causal else length)
        end = tl.minimum(first + diagonal * own, length) if causal else length
        for start in range(begin, end, other):
            columns = start + tl.arange(0, other)
            k = _load(keys, start, step, other, width, length)
            v = _load(values, start, step, other, width, length)
            scores = _scores(q, k, width)
            if diagonal:
                scores = tl.where(rows[:, None] >= columns[None, :], scores, MASKED)
            if grouped:
                column_groups = _groups(groups, columns, length, grouped)
                scores = tl.where(row_groups[:, None] == column_groups[None, :], scores, MASKED)
            elif not causal and length % other:
                scores = tl.where(columns[None, :] < length, scores, MASKED)
            higher = tl.maximum(top, tl.max(scores, 1))
            weights, fade = tl.exp2(scores - higher[:, None]), tl.exp2(top - higher)
            total = total * fade + tl.sum(weights, 1)
            if least > 0:
                hashed = hashed_rows[:, None] + (columns.to(tl.uint32) * multiplier)[None, :]
                weights = tl.where(_mix(hashed) >= least, weights, 0.0)
            sums = tl.dot(weights.to(v.dtype), v, sums * fade[:, None])
            top = higher

    kept = 1.0 - least / 4294967296
    outputs = _head(output, b, 0, 1, h, length, heads, width)
    _store(outputs, sums / (total * kept)[:, None], first, heads * width, own, width, length)
    tl.store(logsumexp + (b * heads + h) * length + rows, top + tl.log2(total), mask=rows < length)


@triton.jit
def backward(
    qkv,
    stream,
    groups,
    cotangent,
    logsumexp,
    delta,
    d_qkv,
    length: tl.constexpr,
    heads: tl.constexpr,
    width: tl.constexpr,
    own: tl.constexpr,
    other: tl.constexpr,
    context_length: tl.constexpr,
    least: tl.constexpr,
    causal: tl.constexpr,
    grouped: tl.constexpr,
):
    """Computes the gradients of one block of keys and values, and then those of the same block of queries.

    The later a block, the fewer queries see its keys, and the more keys its queries see: programs take equally long.
    The weights are (1 − rate) times what they are after dropout, and so is `delta`: the factor is applied to the sums.

    Args:
        qkv, stream, groups: as in `forward`.
        cotangent: bfloat16 [B, T, H, K], the gradient of the output.
        logsumexp: float32 [B, H, T], from `forward`.
        delta: float32 [B, H, T], Σ output · cotangent over K.
        d_qkv: bfloat16 [B, T, 3, H, K].
        length, heads, width, own, other, context_length, least, causal, grouped: as in `forward`.
    """
    i, h, b = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    first = i * own
    mine = first + tl.arange(0, own)
    queries = _head(qkv, b, 0, 3, h, length, heads, width)
    keys, values = _head(qkv, b, 1, 3, h, length, heads, width), _head(qkv, b, 2, 3, h, length, heads, width)
    cotangents = _head(cotangent, b, 0, 1, h, length, heads, width)
    logsumexp += (b * heads + h) * length
    delta += (b * heads + h) * length
    step: tl.constexpr = 3 * heads * width
    offset, multiplier = _hash(stream, b)
    kept = 1.0 - least / 4294967296
    scale = width**-0.5 / kept

    # Scores are [keys, queries] here. Queries behind the end have neither a cotangent nor a delta: they teach nothing.
    own_k = _load(keys, first, step, own, width, length)
    own_v = _load(values, first, step, own, width, length)
    hashed_keys = mine.to(tl.uint32) * multiplier
    d_k = tl.zeros([own, width], tl.float32)
    d_v = tl.zeros([own, width], tl.float32)
    groups += b * length
    own_groups = _groups(groups, mine, length, grouped)
    for after in tl.static_range(2):
        begin = first + after * own if causal else after * length
        end = length if after or not causal else tl.minimum(first + own, length)
        for start in range(begin, end, other):
            rows = start + tl.arange(0, other)
            q = _load(queries, start, step, other, width, length)
            do = _load(cotangents, start, heads * width, other, width, length)
            top = tl.load(logsumexp + rows, mask=rows < length, other=0.0)
            less = tl.load(delta + rows, mask=rows < length, other=0.0) * kept
            scores = _scores(own_k, q, width)
            if causal and not after:
                scores = tl.where(rows[None, :] >= mine[:, None], scores, MASKED)
            if grouped:
                row_groups = _groups(groups, rows, length, grouped)
                scores = tl.where(own_groups[:, None] == row_groups[None, :], scores, MASKED)
            elif not causal and length % own:
                scores = tl.where(mine[:, None] < length, scores, MASKED)
            weights = tl.exp2(scores - top[None, :])
            d_weights = tl.dot(own_v, tl.trans(do))
            staying = weights
            if least > 0:
                hashed_rows = offset + _index(h, rows, context_length) * multiplier
                keep = _mix(hashed_keys[:, None] + hashed_rows[None, :]) >= least
                staying, d_weights = tl.where(keep, weights, 0.0), tl.where(keep, d_weights, 0.0)
            d_v = tl.dot(staying.to(do.dtype), do, d_v)
            d_k = tl.dot((weights * (d_weights - less[None, :])).to(q.dtype), q, d_k)
    d_keys, d_values = (
        _head(d_qkv, b, 1, 3, h, length, heads, width),
        _head(d_qkv, b, 2, 3, h, length, heads, width),
    )
    _store(d_keys, d_k * scale, first, step, own, width, length)
    _store(d_values, d_v / kept, first, step, own, width, length)

    # Here they are [queries, keys].
    own_q = _load(queries, first, step, own, width, length)
    own_do = _load(cotangents, first, heads * width, own, width, length)
    own_top = tl.load(logsumexp + mine, mask=mine < length, other=0.0)
    own_less = tl.load(delta + mine, mask=mine < length, other=0.0) * kept
    hashed_queries = offset + _index(h, mine, context_length) * multiplier
    d_q = tl.zeros([own, width], tl.float32)
    for diagonal in tl.static_range(2):
        begin = diagonal * (first if causal else length)
        end = tl.minimum(first + diagonal * own, length) if causal else length
        for start in range(begin, end, other):
            columns = start + tl.arange(0, other)
            k = _load(keys, start, step, other, width, length)
            v = _load(values, start, step, other, width, length)
            scores = _scores(own_q, k, width)
            if diagonal:
                scores = tl.where(mine[:, None] >= columns[None, :], scores, MASKED)
            if grouped:
                column_groups = _groups(groups, columns, length, grouped)
                scores = tl.where(own_groups[:, None] == column_groups[None, :], scores, MASKED)
            elif not causal and length % other:
                scores = tl.where(columns[None, :] < length, scores, MASKED)
            weights = tl.exp2(scores - own_top[:, None])
            d_weights = tl.dot(own_do, tl.trans(v))
            if least > 0:
                hashed = hashed_queries[:, None] + (columns.to(tl.uint32) * multiplier)[None, :]
                d_weights = tl.where(_mix(hashed) >= least, d_weights, 0.0)
            d_q = tl.dot((weights * (d_weights - own_less[:, None])).to(k.dtype), k, d_q)
    d_queries = _head(d_qkv, b, 0, 3, h, length, heads, width)
    _store(d_queries, d_q * scale, first, step, own, width, length)


@triton.jit
def _groups(groups, positions, length: tl.constexpr, grouped: tl.constexpr):
    """Returns the groups of positions of a sequence; that of all is 0 if there are none."""
    if grouped:
        return tl.load(groups + positions, mask=positions < length, other=NOTHING)
    return positions * 0


@triton.jit
def _scores(a, b, width: tl.constexpr):
    """Returns a · bᵀ / √K, in units of ln 2."""
    return tl.dot(a, tl.trans(b)) * (width**-0.5 * LOG2_E)


@triton.jit
def _hash(stream, b):
    """Returns the offset and the multiplier of a sequence's hash."""
    return tl.load(stream + b), tl.load(stream + tl.num_programs(2) + b)


@triton.jit
def _index(h, rows, context_length: tl.constexpr):
    """Returns the index in dropout of the first weight of each query, modulo 2³²."""
    stride: tl.constexpr = context_length * context_length % 4294967296
    return h.to(tl.uint32) * stride + rows.to(tl.uint32) * context_length


@triton.jit
def _mix(bits):
    """Computes `hashing.mix`."""
    bits = (bits ^ (bits >> 16)) * 0x7FEB352D
    bits = (bits ^ (bits >> 15)) * 0x846CA68B
    return bits ^ (bits >> 16)


@triton.jit
def _head(
    array,
    b,
    part,
    parts: tl.constexpr,
    h,
    length: tl.constexpr,
    heads: tl.constexpr,
    width: tl.constexpr,
):
    """Returns where a head begins in an array [B, T, parts, H, K]."""
    return array + ((b.to(tl.int64) * length * parts + part) * heads + h) * width


@triton.jit
def _load(
    head,
    first,
    step: tl.constexpr,
    block: tl.constexpr,
    width: tl.constexpr,
    length: tl.constexpr,
):
    """Returns a block of a head, whose positions lie `step` numbers apart; those behind the end are zeros."""
    rows = first + tl.arange(0, block)[:, None]
    places = rows * step + tl.arange(0, width)[None, :]
    if length % block == 0:
        return tl.load(head + places)
    return tl.load(head + places, mask=rows < length, other=0.0)


@triton.jit
def _store(
    head,
    x,
    first,
    step: tl.constexpr,
    block: tl.constexpr,
    width: tl.constexpr,
    length: tl.constexpr,
):
    """Writes a block of a head, without the positions behind the end."""
    rows = first + tl.arange(0, block)[:, None]
    places = rows * step + tl.arange(0, width)[None, :]
    x = x.to(head.dtype.element_ty)
    if length % block == 0:
        tl.store(head + places, x)
    else:
        tl.store(head + places, x, mask=rows < length)
