"""Average precision: worked by hand, against COCO's own code, and over drawn images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ticketry.errors import InputError
from ticketry.metrics import METRICS, metrics_for, resample
from ticketry.metrics.boxes import CROWD, DIFFICULT, match, overlap
from ticketry.metrics.pools import Pool

AP, AP50, AP75 = (METRICS[name] for name in ("ap", "ap50", "ap75"))


def own_score(metric: Any, labels: list[Any], found: list[Any]) -> float:
    truth, runs = metric.outputs.read(labels, {"the run": found})
    return float(metric.outputs.scores(truth, runs["the run"][None])[0])


def box(x: float, y: float, size: float = 10, kind: int = 0, crowd: int = 0) -> Any:
    return (kind, x, y, x + size, y + size, crowd)


def seen(score: float, x: float, y: float, size: float = 10, kind: int = 0) -> Any:
    return (kind, score, x, y, x + size, y + size)


def test_worked_by_hand() -> None:
    labels = [[box(0, 0), box(20, 0)], [box(0, 0)]]
    found = [[seen(0.9, 0, 0), seen(0.8, 50, 50)], [seen(0.7, 0, 0)]]
    # Hit, miss, hit: precision 1 up to recall 1/3 (34 of 101 recalls: 0 to 0.33), then 2/3 up to
    # recall 2/3 (33 more), then nothing.
    assert own_score(AP50, labels, found) == pytest.approx((34 + 33 * 2 / 3) / 101)
    # Shifted by 2 of 10: 80 of 120 shared; a hit up to 0.65, so at 4 of 10 thresholds.
    assert own_score(AP, [[box(0, 0)]], [[seen(0.9, 2, 0)]]) == pytest.approx(0.4)
    assert own_score(AP75, [[box(0, 0)]], [[seen(0.9, 2, 0)]]) == 0.0
    assert metrics_for("detection") == ("ap", "ap50", "ap75")


def test_an_object_is_found_once_and_the_best_score_takes_it() -> None:
    labels = [[box(0, 0)]]
    # The second box fits better, yet comes later: it is a miss after full recall.
    assert own_score(AP50, labels, [[seen(0.9, 1, 0), seen(0.8, 0, 0)]]) == pytest.approx(1.0)
    # A better score on the wrong place costs half the precision.
    assert own_score(AP50, labels, [[seen(0.9, 50, 0), seen(0.8, 0, 0)]]) == pytest.approx(0.5)


def test_what_does_not_count_is_neither_hit_nor_miss() -> None:
    labels = [[box(0, 0), box(30, 0, size=30, crowd=1)]]
    on_crowd = [seen(0.9, 35, 5), seen(0.8, 45, 15), seen(0.7, 0, 0)]
    assert own_score(AP50, labels, [on_crowd]) == pytest.approx(1.0)
    assert AP50.fn(labels, [on_crowd]) == pytest.approx(1.0)


def test_a_difficult_object_is_ignored_where_it_is_met_and_not_all_inside_it() -> None:
    met, inside = seen(0.9, 32, 0, size=30), seen(0.8, 40, 10)
    for crowd, expected in ((DIFFICULT, 0.5), (CROWD, 1.0)):
        labels = [[box(0, 0), box(30, 0, size=30, crowd=crowd)]]
        # Twice on it, both ignored; a box of a ninth of its area is in a crowd, not on an object.
        assert own_score(AP50, labels, [[met, met, seen(0.7, 0, 0)]]) == pytest.approx(1.0)
        found = [[met, inside, seen(0.7, 0, 0)]]
        assert own_score(AP50, labels, found) == pytest.approx(expected)
        assert AP50.fn(labels, found) == pytest.approx(expected)
    # What counts is taken first, though the difficult one is overlapped more.
    labels = [[box(0, 0), box(2, 0, crowd=DIFFICULT)]]
    assert AP50.fn(labels, [[seen(0.9, 2, 0)]]) == pytest.approx(1.0)


def test_classes_without_an_object_are_left_out_and_others_count_alike() -> None:
    labels = [[box(0, 0, kind=1), box(20, 0, kind=3), box(40, 0, kind=3)]]
    found = [[seen(0.9, 0, 0, kind=1), seen(0.9, 0, 0, kind=2), seen(0.9, 0, 0, kind=7)]]
    assert own_score(AP50, labels, found) == pytest.approx((1 + 0) / 2)
    assert AP50.fn(labels, found) == pytest.approx((1 + 0) / 2)


coordinates = st.integers(0, 24).map(float)
places = st.tuples(coordinates, coordinates, st.integers(1, 16).map(float))
objects = st.tuples(places, st.integers(0, 2), st.integers(0, 1)).map(
    lambda made: box(*made[0], kind=made[1], crowd=made[2])
)
detections = st.tuples(places, st.integers(0, 3), st.integers(0, 10)).map(
    lambda made: seen(made[2] / 10, *made[0], kind=made[1])
)


@settings(max_examples=60, deadline=None)
@given(
    images=st.lists(
        st.tuples(st.lists(objects, max_size=5), st.lists(detections, max_size=7)),
        min_size=1,
        max_size=4,
    ).filter(lambda images: any(not b[5] for image, _ in images for b in image)),
    metric=st.sampled_from([AP, AP50, AP75]),
)
def test_it_is_cocos(images: Any, metric: Any) -> None:
    labels, found = (list(side) for side in zip(*images, strict=True))
    assert own_score(metric, labels, found) == pytest.approx(metric.fn(labels, found), abs=1e-6)


def made(images: int, wrong: float, rng: np.random.Generator) -> tuple[list[Any], list[Any]]:
    """Return objects, and boxes that are off by about ``wrong`` pixels, some of them in vain."""
    labels: list[Any] = []
    found: list[Any] = []
    for _ in range(images):
        places = rng.integers(0, 80, (rng.integers(1, 4), 2)).tolist()
        kinds = rng.integers(0, 2, len(places)).tolist()
        labels.append([box(*p, kind=k) for p, k in zip(places, kinds, strict=True)])
        moved = np.round(np.array(places) + rng.normal(0, wrong, (len(places), 2)), 2).tolist()
        found.append(
            [seen(round(float(rng.random()), 3), *p, kind=k)
             for p, k in zip([*moved, [90.0, 90.0]], [*kinds, 0], strict=True)]
        )  # fmt: skip
    return labels, found


def test_a_drawn_image_counts_as_often_as_it_was_drawn() -> None:
    labels, found = made(12, 2.0, np.random.default_rng(0))
    truth, runs = AP.outputs.read(labels, {"run": found})
    pool = Pool(truth, runs["run"], 10)
    for seed in range(5):
        drawn = np.random.default_rng(seed).integers(0, 12, 12)
        weights = np.bincount(drawn, minlength=12).astype(float)
        wanted = own_score(AP, [labels[i] for i in drawn], [found[i] for i in drawn])
        assert pool.scores(weights[None])[0] == pytest.approx(wanted)


def test_one_image_more() -> None:
    labels, found = made(8, 3.0, np.random.default_rng(1))
    truth, runs = AP50.outputs.read(labels, {"run": found})
    pool = Pool(truth, runs["run"], 1)
    exact = [[(b[0], 2.0, *b[1:5]) for b in labels[3]]]
    assert pool.with_one_more(3, found=True) == pytest.approx(
        own_score(AP50, [labels[3], *labels], exact + found)
    )
    assert pool.with_one_more(3, found=False) == pytest.approx(
        own_score(AP50, [labels[3], *labels], [[], *found])
    )


def test_ends_agree_with_a_plain_bootstrap() -> None:
    rng = np.random.default_rng(2)
    labels, _ = made(120, 0.0, rng)

    def run(wrong: float) -> list[Any]:
        return [
            [(b[0], round(float(rng.random()), 3), *(float(v) for v in np.round(
                np.array(b[1:5]) + rng.normal(0, wrong), 2))) for b in image]
            for image in labels
        ]  # fmt: skip

    arms = {f"{arm}{i}": run(wrong) for arm, wrong in (("a", 0.8), ("b", 1.5)) for i in range(2)}
    truth, read = AP50.outputs.read(labels, arms)
    stacked = [np.stack([read[f"{arm}{i}"] for i in range(2)]) for arm in "ab"]
    found = resample(AP50, truth, *stacked, samples=1_000, seed=0)
    plain = []
    for _ in range(200):
        drawn = rng.integers(0, 120, 120)
        means = [np.mean(AP50.outputs.scores(truth[drawn], side[:, drawn])) for side in stacked]
        plain.append(means[1] - means[0])
    spread = np.std(plain)
    low, high = np.quantile(plain, [0.05, 0.95])
    assert low - 2 * spread < found.low < low + 0.35 * spread
    assert high - 0.35 * spread < found.high < high + 2 * spread
    assert found.variance == pytest.approx(np.var(plain), rel=0.4)


def test_nothing_found_scores_nothing_and_overlaps_need_an_area() -> None:
    assert own_score(AP, [[box(0, 0)]], [[]]) == 0.0
    assert AP.fn([[box(0, 0)]], [[]]) == 0.0
    flat = np.array([[3.0, 3.0, 3.0, 9.0]])
    assert overlap(flat, flat, np.array([False])).tolist() == [[0.0]]
    hits, ignored = match(flat, flat, np.array([0]), (0.5,))
    assert not hits.any()
    assert not ignored.any()


@pytest.mark.parametrize(
    ("labels", "found", "message"),
    [
        ([], [], "the test labels are empty or not boxes"),
        ([[(0, 1, 2)]], [[]], "the test labels are empty or not boxes"),
        ([[box(0, 0, crowd=1)]], [[]], "no test image has an object that counts"),
        ([[box(0, 0)]], [], "0 predictions for 1 test examples"),
        ([[box(0, 0)]], ["cat"], "the run has predictions of another kind"),
        ([[box(0, 0)]], [[(0.5, 0.9, 0, 0, 1, 1)]], "the run has predictions of another kind"),
    ],
)
def test_what_does_not_fit_is_refused(labels: Any, found: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        AP.outputs.read(labels, {"the run": found})
    with pytest.raises(InputError, match=message):
        AP.fn(labels, found)
