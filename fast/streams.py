"""Dropout's factors by uniform numbers of `np.random.default_rng((key, number))`, for many numbers in one call.

numpy takes ten microseconds to make a generator, and a step needs one per video and dropout: much of a small network's step.
The constants and steps are those of numpy's SeedSequence and of PCG64 (O'Neill 2014).
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from eval.compiled import compiled, inner

U64 = np.uint64
LOW, HALF = U64(0xFFFFFFFF), U64(32)  # arithmetic is modulo 2**32 in a SeedSequence, modulo 2**128 in PCG64
POOL = 4  # words of 32 bits
HASH_A, TIMES_A, HASH_B, TIMES_B = U64(0x43B0D7E5), U64(0x931E8875), U64(0x8B51F9DD), U64(0x58F38DED)
MIX_LEFT, MIX_RIGHT, SHIFT = U64(0xCA01F9DD), U64(0x4973F715), U64(16)
TIMES_HIGH, TIMES_LOW = U64(2549297995355413924), U64(4865540595714422341)
ONE, SIXTY_FOUR, ROTATION, UNUSED = U64(1), U64(64), U64(58), U64(8)
STEP = np.float32(2**-24)  # between two numbers of single precision
FEW = 2**19  # numbers, for which starting threads does not pay


def fill(out: NDArray[np.floating], p: float, key: int, first: int, threads: int = 1) -> None:
    """Fill `out`, (B, N), with 0 where a number is at least 1 - p, else with 1 / (1 - p).

    The numbers of `out[i]` are the first N in single precision of `np.random.default_rng((key, first + i))`. If there are
    many, `threads` threads fill shares of the rows.
    """
    words = np.array([key & 0xFFFFFFFF, key >> 32] if key >> 32 else [key], dtype=np.uint64)
    share = len(out) if out.size < FEW else -(-len(out) // threads)
    if share == len(out):
        _fill(out, 1 - p, words, first)
        return
    with ThreadPoolExecutor(threads) as pool:
        starts = range(0, len(out), share)
        list(pool.map(lambda row: _fill(out[row : row + share], 1 - p, words, first + row), starts))


@compiled
def _fill(out, share_kept, key, first):  # type: ignore[no-untyped-def]
    below, factor, nothing = np.float32(share_kept), out.dtype.type(1) / out.dtype.type(share_kept), out.dtype.type(0)
    pool, words = np.empty(POOL, dtype=np.uint64), np.empty(len(key) + 1, dtype=np.uint64)
    words[:-1] = key
    for row in range(len(out)):
        words[-1] = first + row
        _mix(pool, words)
        high, low, add_high, add_low = _seeded(pool)
        values = out[row]
        for place in range(0, len(values), 2):
            high, low = _stepped(high, low, add_high, add_low)
            mixed, turn = high ^ low, high >> ROTATION
            mixed = (mixed >> turn) | (mixed << ((SIXTY_FOUR - turn) & U64(63)))
            values[place] = factor if np.float32((mixed & LOW) >> UNUSED) * STEP < below else nothing
            if place + 1 < len(values):
                values[place + 1] = factor if np.float32(mixed >> (HALF + UNUSED)) * STEP < below else nothing


@inner
def _hashed(value, constant, times):  # type: ignore[no-untyped-def]
    """A word hashed with a constant, and the constant for the next word."""
    following = (constant * times) & LOW
    value = ((value ^ constant) * following) & LOW
    return value ^ (value >> SHIFT), following


@inner
def _mix(pool, words):  # type: ignore[no-untyped-def]
    """Hash up to four words into the pool of a SeedSequence."""
    constant = HASH_A
    for place in range(POOL):
        pool[place], constant = _hashed(words[place] if place < len(words) else U64(0), constant, TIMES_A)
    for source in range(POOL):
        for target in range(POOL):
            if source != target:
                value, constant = _hashed(pool[source], constant, TIMES_A)
                value = (MIX_LEFT * pool[target] - MIX_RIGHT * value) & LOW
                pool[target] = value ^ (value >> SHIFT)


@inner
def _seeded(pool):  # type: ignore[no-untyped-def]
    """State and increment of PCG64 as high and low words."""
    words = np.empty(POOL, dtype=np.uint64)
    constant = HASH_B
    for place in range(2 * POOL):
        value, constant = _hashed(pool[place % POOL], constant, TIMES_B)
        if place % 2:
            words[place // 2] |= value << HALF
        else:
            words[place // 2] = value
    add_high, add_low = (words[2] << ONE) | (words[3] >> U64(63)), (words[3] << ONE) | ONE
    low = add_low + words[1]  # the first step, from a state of zero, gives the increment
    high = add_high + words[0] + (ONE if low < add_low else U64(0))
    high, low = _stepped(high, low, add_high, add_low)
    return high, low, add_high, add_low


@inner
def _stepped(high, low, add_high, add_low):  # type: ignore[no-untyped-def]
    """The state times PCG64's factor plus the increment, modulo 2**128."""
    a, b, c, d = low & LOW, low >> HALF, TIMES_LOW & LOW, TIMES_LOW >> HALF
    middle = b * c + ((a * c) >> HALF)
    other = a * d + (middle & LOW)
    carried = b * d + (middle >> HALF) + (other >> HALF)
    high = high * TIMES_LOW + low * TIMES_HIGH + carried
    low = low * TIMES_LOW + add_low
    return high + add_high + (ONE if low < add_low else U64(0)), low
