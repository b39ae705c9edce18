"""Packed bits to bytes and back; blobs come from strangers."""

from __future__ import annotations

import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ticketry.core.codec import MOST_WEIGHTS, decode_bits, encode_bits, entropy_bytes
from ticketry.errors import MaskError, TicketError

RAW, HUFFMAN, ZEROS, ONES, GAPS, GAPS_OF_PRUNED = (bytes([kind]) for kind in range(6))


def random_bits(n: int, density: float, seed: int = 0) -> bytes:
    kept = np.random.default_rng(seed).random(n) < density
    return np.packbits(kept, bitorder="little").tobytes()


def deflated(data: bytes) -> bytes:
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    return deflate.compress(data) + deflate.flush()


@pytest.mark.parametrize(
    ("packed", "n", "blob"),
    [
        (b"\x05", 3, RAW + b"\x05"),  # deflate is longer for so few
        (b"\x00", 3, ZEROS),
        (b"\x07", 3, ONES),
        (b"\x00" * 1000, 8000, ZEROS),
        (b"\xff" * 1000 + b"\x01", 8001, ONES),
        (b"\x7f", 8, RAW + b"\x7f"),
        (b"", 0, RAW),
    ],
)
def test_blobs_by_hand(packed: bytes, n: int, blob: bytes) -> None:
    assert encode_bits(packed, n) == blob
    assert decode_bits(blob, n) == packed


def test_a_sparse_mask_is_huffman_coded() -> None:
    packed = random_bits(80_000, 0.2)
    blob = encode_bits(packed, 80_000)
    assert blob[:1] == HUFFMAN
    assert zlib.decompress(blob[1:], wbits=-15) == packed
    assert decode_bits(blob, 80_000) == packed


@pytest.mark.parametrize("rare_is_kept", [True, False])
def test_a_very_sparse_or_dense_mask_is_told_by_its_gaps(rare_is_kept: bool) -> None:
    places = [3, 4, 260, 1000, 7999]  # 3, 0, 255 (= 255 and 0), 739 (= 2·255 + 229), 6998
    rare = np.zeros(8000, dtype=bool)
    rare[places] = True
    packed = np.packbits(rare if rare_is_kept else ~rare, bitorder="little").tobytes()
    blob = encode_bits(packed, 8000)
    assert blob[:1] == (GAPS if rare_is_kept else GAPS_OF_PRUNED)
    codes = [3, 0, 255, 0, 255, 255, 229, *[255] * 27, 113]
    assert list(zlib.decompress(blob[1:], wbits=-15)) == codes
    assert decode_bits(blob, 8000) == packed


def test_many_gaps_are_decoded_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = random_bits(100_000, 0.003)
    blob = encode_bits(packed, 100_000)
    assert blob[:1] == GAPS
    monkeypatch.setattr("ticketry.core.codec._AT_ONCE", 7)
    assert decode_bits(blob, 100_000) == packed


@pytest.mark.parametrize(
    "density", [0.005, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.995]
)
def test_a_million_weights_take_little_more_than_their_entropy(density: float) -> None:
    n = 1_000_000
    packed = random_bits(n, density, seed=int(density * 10))
    measured = sum(byte.bit_count() for byte in packed) / n
    blob = encode_bits(packed, n)
    assert decode_bits(blob, n) == packed
    assert len(blob) <= 1.02 * entropy_bytes(n, measured)


def test_entropy_by_hand() -> None:
    assert entropy_bytes(800, 0.5) == 100.0
    assert entropy_bytes(800, 0.0) == entropy_bytes(800, 1.0) == 0.0
    # H(1/4) = 2 − (3/4)·log2(3) = 0.811278…
    assert entropy_bytes(8, 0.25) == pytest.approx(0.8112781244591328)
    assert entropy_bytes(8, 0.75) == pytest.approx(0.8112781244591328)


@given(st.lists(st.booleans(), max_size=300), st.integers(1, 40))
def test_any_bits_round_trip(kept: list[bool], times: int) -> None:
    kept = kept * times
    packed = np.packbits(np.array(kept, dtype=bool), bitorder="little").tobytes()
    blob = encode_bits(packed, len(kept))
    assert decode_bits(blob, len(kept)) == packed
    assert len(blob) <= len(packed) + 1


@given(st.binary(max_size=60), st.integers(0, 400))
def test_any_blob_is_decoded_or_refused(blob: bytes, n: int) -> None:
    try:
        packed = decode_bits(blob, n)
    except TicketError:
        return
    assert decode_bits(encode_bits(packed, n), n) == packed  # so it has n bits and zero padding


@given(st.data(), st.sampled_from([(0.2, HUFFMAN), (0.05, GAPS), (0.97, GAPS_OF_PRUNED)]))
def test_a_damaged_blob_never_gives_other_sizes(
    data: st.DataObject, kind: tuple[float, bytes]
) -> None:
    n = 4001
    blob = bytearray(encode_bits(random_bits(n, kind[0]), n))
    assert blob[:1] == kind[1]
    for _ in range(data.draw(st.integers(1, 4))):
        blob[data.draw(st.integers(0, len(blob) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        packed = decode_bits(bytes(blob), n)
    except TicketError:
        return
    assert len(packed) == 501
    assert packed[-1] <= 1


def test_every_truncation_is_refused() -> None:
    n = 4000
    blob = encode_bits(random_bits(n, 0.05), n)
    for length in range(len(blob)):
        with pytest.raises(TicketError):
            decode_bits(blob[:length], n)


@pytest.mark.parametrize(
    ("blob", "n", "message"),
    [
        (b"", 8, "the encoded mask is empty; expected a format byte. Fetch it again."),
        (
            b"\x09abc",
            8,
            "the encoded mask has format 9; this ticketry knows 0 to 5. Update ticketry, or fetch "
            "the file again.",
        ),
        (RAW + b"\x01\x02", 8, "found 2 bytes, expected 1 for 8 weights"),
        (RAW + b"\x08", 3, "bits are set beyond the 3 weights"),
        (HUFFMAN + deflated(b"\x08"), 3, "bits are set beyond the 3 weights"),
        (ZEROS + b"\x00", 8, "1 bytes follow a format that has none"),
        (ONES + b"\xff", 8, "1 bytes follow a format that has none"),
        (HUFFMAN + deflated(b"\x01"), 16, "found 1 bytes, expected 2 for 16 weights"),
        (HUFFMAN + deflated(b"\x01\x02"), 8, "it unpacks to more than the 1 bytes expected"),
        (HUFFMAN + deflated(b"\x01" * 9)[:-1], 72, "its deflate stream ends too early"),
        (HUFFMAN, 72, "its deflate stream ends too early"),
        (HUFFMAN + deflated(b"\x01") + b"xy", 8, "2 bytes follow its deflate stream"),
        (GAPS + deflated(b"\x50"), 80, "its gaps lead beyond the 80 weights"),
        (GAPS + deflated(b"\x03\xff"), 80, "its last gap does not end"),
        (GAPS + deflated(bytes(11)), 80, "it unpacks to more than the 10 bytes expected"),
        (HUFFMAN + b"\xff\xff\xff", 8, "its deflate stream is broken (Error -3"),
        (ONES, 2**62, "a tensor of 4,611,686,018,427,387,904 weights is claimed; expected 0 to"),
        (ONES, -1, "a tensor of -1 weights is claimed; expected 0 to 17,179,869,184."),
    ],
)
def test_faults_are_named(blob: bytes, n: int, message: str) -> None:
    with pytest.raises(TicketError) as caught:
        decode_bits(blob, n)
    assert message in str(caught.value)


def test_a_bomb_is_not_unpacked() -> None:
    bomb = HUFFMAN + deflated(bytes(50_000_000))  # 49 kB
    tracemalloc.start()
    try:
        with pytest.raises(TicketError, match="unpacks to more than the 8 bytes expected"):
            decode_bits(bomb, 64)
        with pytest.raises(TicketError, match="is claimed"):
            decode_bits(ONES, MOST_WEIGHTS + 1)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("packed", "n", "message"),
    [
        (b"\x01", 9, "found 1 bytes, expected 2 for 9 weights."),
        (b"\x80", 7, "bits are set beyond the 7 weights."),
    ],
)
def test_only_packed_bits_are_encoded(packed: bytes, n: int, message: str) -> None:
    with pytest.raises(MaskError) as caught:
        encode_bits(packed, n)
    assert str(caught.value) == f"these are not the packed bits of a mask: {message}"
