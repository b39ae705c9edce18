"""Mean intersection over union: worked by hand, against a peer, and its label maps as text."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from sklearn.metrics import jaccard_score

from ticketry.errors import InputError
from ticketry.metrics import METRICS, metrics_for, resample
from ticketry.metrics.maps import VOID, decode_map, encode_map

MIOU = METRICS["miou"]


def maps(*rows: list[list[int]]) -> list[str]:
    return [encode_map(np.array(row, dtype=np.uint8)) for row in rows]


def test_worked_by_hand() -> None:
    truth = maps([[0, 0, 1, 1]], [[2, VOID, 2, 0]])
    found = maps([[0, 1, 1, 1]], [[2, 2, 0, 0]])
    # Class 0: both 2, either 4. Class 1: 2 of 3. Class 2: 1 of 2; what is found on void is no
    # matter.
    assert MIOU.fn(truth, found) == pytest.approx((2 / 4 + 2 / 3 + 1 / 2) / 3)
    assert MIOU.fn(truth, truth) == 1.0
    assert metrics_for("segmentation") == ("miou",)


def test_a_class_that_is_nowhere_is_left_out_and_one_found_in_vain_counts() -> None:
    assert MIOU.fn(maps([[0, 3]]), maps([[0, 3]])) == 1.0
    assert MIOU.fn(maps([[0, 0]]), maps([[0, 5]])) == pytest.approx((1 / 2 + 0) / 2)


@given(
    pair=array_shapes(min_dims=2, max_dims=2, max_side=12).flatmap(
        lambda shape: st.tuples(
            *[arrays(np.uint8, (3, *shape), elements=st.integers(0, 4))] * 2,
            arrays(np.bool_, (3, *shape)),
        )
    )
)
def test_it_is_scikit_learns(pair: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    truth, found, void = pair
    if void.all():
        return
    marked = np.where(void, VOID, truth).astype(np.uint8)
    score = MIOU.fn([encode_map(m) for m in marked], [encode_map(m) for m in found])
    wanted = jaccard_score(truth[~void], found[~void], average="macro", zero_division=0)
    assert score == pytest.approx(wanted)


@given(classes=arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=30)))
def test_maps_come_back(classes: np.ndarray) -> None:
    assert np.array_equal(decode_map(encode_map(classes)), classes)


@pytest.mark.parametrize(
    "text",
    ["", "3x3", "3x3:!!", "2x2:AAAA", "0x4:eJwDAAAAAAE=", "1x1:" + encode_map(
        np.zeros((9, 9), dtype=np.uint8)).split(":")[1], "99999x99999:eJwDAAAAAAE="],
)  # fmt: skip
def test_what_is_no_map_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="expected HEIGHTxWIDTH: and base64"):
        decode_map(text)


def test_runs_that_do_not_fit_are_refused() -> None:
    truth = maps([[0, 1]])
    with pytest.raises(InputError, match=r"image 0: a label map of \(1, 3\); expected \(1, 2\)"):
        MIOU.fn(truth, maps([[0, 1, 1]]))
    with pytest.raises(InputError, match="2 predictions for 1 test examples"):
        MIOU.fn(truth, truth * 2)
    with pytest.raises(InputError, match="predictions of another kind; expected label maps"):
        MIOU.fn(truth, [3])
    with pytest.raises(InputError, match="the test labels are empty or not label maps"):
        MIOU.fn([], [])


def test_a_run_scores_the_same_beside_one_that_names_other_classes() -> None:
    truth = maps([[0, 1, 1]])
    few, many = maps([[0, 0, 1]]), maps([[0, 1, 7]])
    own, runs = MIOU.outputs.read(truth, {"few": few, "many": many})
    assert runs["few"].shape == runs["many"].shape
    for who, found in (("few", few), ("many", many)):
        assert MIOU.outputs.scores(own, runs[who][None])[0] == MIOU.fn(truth, found)


def test_ends_agree_with_a_plain_bootstrap() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, (150, 6, 6)).astype(np.uint8)

    def run(wrong: float) -> list[str]:
        hard = rng.random((150, 1, 1)) < wrong  # so that images differ, as real ones do
        found = np.where(
            hard & (rng.random(truth.shape) < 0.9), rng.integers(0, 3, truth.shape), truth
        )
        return [encode_map(image.astype(np.uint8)) for image in found]

    labels = [encode_map(image) for image in truth]
    arms = {f"{arm}{i}": run(wrong) for arm, wrong in (("a", 0.2), ("b", 0.3)) for i in range(2)}
    own, read = MIOU.outputs.read(labels, arms)
    stacked = [np.stack([read[f"{arm}{i}"] for i in range(2)]) for arm in "ab"]
    assert MIOU.outputs.scores(own, stacked[0]) == pytest.approx(
        [MIOU.fn(labels, arms["a0"]), MIOU.fn(labels, arms["a1"])]
    )
    found = resample(MIOU, own, *stacked, samples=2_000, seed=0)
    plain = []
    for _ in range(400):
        drawn = rng.integers(0, 150, 150)
        means = [np.mean(MIOU.outputs.scores(own, side[:, drawn])) for side in stacked]
        plain.append(means[1] - means[0])
    spread = np.std(plain)
    low, high = np.quantile(plain, [0.05, 0.95])
    # The imaginary image only widens, by what one image does.
    assert low - spread < found.low < low + 0.25 * spread
    assert high - 0.25 * spread < found.high < high + spread
    assert found.variance == pytest.approx(np.var(plain), rel=0.35)
