"""The THUMOS'14 kit against its published values, against a plain version of itself, and its files."""

import numpy as np
import pytest
from conftest import SHARED
from hypothesis import given
from hypothesis import strategies as st

from eval.table import InputError, Table, read_ground_truth, read_predictions
from eval.thumos_kit import CLASS_IDS, kit_ap, read_annotations, read_kit, write_kit

OFFICIAL = SHARED / "data" / "thumos14_official"
STPN = SHARED / "data" / "detections" / "stpn_thumos14.json"
TIOU = np.linspace(0.1, 0.6, 6)


def table(videos, labels, rows):
    """Rows (video, label, start, end[, score])."""
    return Table(
        list(videos),
        list(labels),
        np.array([videos.index(row[0]) for row in rows], dtype=np.int64),
        np.array([labels.index(row[1]) for row in rows], dtype=np.int64),
        np.array([row[2:4] for row in rows], dtype=np.float64).reshape(-1, 2),
        np.array([row[4] for row in rows if len(row) > 4], dtype=np.float64),
    )


def rows_of(table):
    scores = [(score,) for score in table.scores.tolist()] or [()] * len(table)
    return [
        (table.videos[v], table.labels[c], *segment, *score)
        for v, c, segment, score in zip(table.video, table.label, table.segments.tolist(), scores, strict=True)
    ]


# ------------------------------------------------------------------------------------------------------------- AP


def plain_overlap(one, other):
    shared = min(one[1], other[1]) - max(one[0], other[0])
    return shared / (max(one[1], other[1]) - min(one[0], other[0])) if shared > 0 else 0.0


def plain_ap(truth, found, ambiguous, label, threshold):
    """AP of one class from rows, step by step as the kit goes."""
    pool = []  # (score, whether a hit)
    for video in sorted({row[0] for row in found}):
        rows = sorted((row for row in found if row[:2] == (video, label)), key=lambda row: -row[4])
        taken = set()
        for wanted in truth:
            free = [place for place in range(len(rows)) if place not in taken]
            if wanted[:2] == (video, label) and free:
                best = max(free, key=lambda place: plain_overlap(wanted[2:4], rows[place][2:4]))
                if plain_overlap(wanted[2:4], rows[best][2:4]) > threshold:
                    taken.add(best)
        for place, row in enumerate(rows):
            unclear = sum(plain_overlap(other[2:4], row[2:4]) for other in ambiguous if other[0] == video)
            if place in taken or not unclear > 0:
                pool.append((row[4], place in taken))
    pool.sort(key=lambda entry: -entry[0])
    precisions = [sum(hit for _, hit in pool[: place + 1]) / (place + 1) for place, (_, hit) in enumerate(pool) if hit]
    count = sum(row[1] == label for row in truth)
    return sum(precisions) / count if count else float("nan")


def assert_like_plain(truth, found, ambiguous, tiou):
    rows, counted, unclear = rows_of(truth), rows_of(found), [] if ambiguous is None else rows_of(ambiguous)
    expected = [[plain_ap(rows, counted, unclear, label, threshold) for threshold in tiou] for label in truth.labels]
    np.testing.assert_allclose(kit_ap(truth, found, ambiguous, np.array(tiou)), expected, rtol=1e-14, atol=0)


TIMES = st.integers(0, 8).map(float)  # few, so that overlaps and scores are often equal, segments empty or inverted
VIDEOS, LABELS = ["b", "c", "a", "d"], ["run", "jump", "none"]


def some_rows(videos, labels, *more):
    return st.lists(st.tuples(st.sampled_from(videos), st.sampled_from(labels), TIMES, TIMES, *more), max_size=25)


@given(
    some_rows(["b", "a"], ["run", "jump"]),
    some_rows([*VIDEOS, "unknown"], [*LABELS, "unknown"], st.integers(0, 3).map(float)),
    st.none() | some_rows(["d", "a", "b"], ["Ambiguous"]),
    st.permutations([*VIDEOS, "unknown"]),
    st.permutations([*LABELS, "unknown"]),
)
def test_like_the_plain_version(truth, found, ambiguous, videos, labels):
    unclear = None if ambiguous is None else table(["d", "a", "b"], ["Ambiguous"], ambiguous)
    assert_like_plain(table(["b", "c", "a"], LABELS, truth), table(videos, labels, found), unclear, [0.0, 0.25, 0.5, 1.0])


def test_like_the_plain_version_with_many():
    random = np.random.default_rng(0)

    def segments(count, names, *more):
        start = random.uniform(0, 100, count)
        return [(str(random.choice(names)), s, s + random.exponential(10)) for s in start]

    names = [f"v{number}" for number in range(12)]
    truth = [(video, str(random.choice(LABELS)), *times) for video, *times in segments(150, names)]
    found = [(video, str(random.choice(LABELS)), *times, random.normal()) for video, *times in segments(1500, names)]
    unclear = [(video, "Ambiguous", *times) for video, *times in segments(15, names)]
    tables = table(names, LABELS, truth), table(names[::-1], LABELS[::-1], found), table(names, ["Ambiguous"], unclear)
    assert_like_plain(*tables, TIOU)
    assert (kit_ap(*tables, TIOU) != kit_ap(*tables[:2], None, TIOU)).any()


@pytest.mark.parametrize(
    ("truth", "found", "ambiguous", "ap"),
    [
        ([(0, 10)], [(0, 5, 1)], [], 0.0),  # an overlap equal to the threshold is not above it
        ([(0, 10)], [(0, 5.1, 1)], [], 1.0),
        ([(0, 10)], [(0, 9, 1), (0, 10, 0)], [], 0.5),  # the better overlap, not the better score
        ([(0, 10)], [(0, 6, 1), (4, 10, 0)], [], 1.0),  # of equal overlaps the better score
        ([(0, 10), (2, 12)], [(0, 12, 1)], [], 0.5),  # one ground truth a detection
        ([(4, 12), (2, 10)], [(3, 10, 1), (2, 16, 0)], [], 1.0),  # in order of the file each takes its best: 7/9, then 8/14
        ([(2, 10), (4, 12)], [(3, 10, 1), (2, 16, 0)], [], 1.0),  # 7/8, then 8/14
        ([(0, 10)], [(20, 30, 1), (0, 10, 0)], [(29, 40)], 1.0),  # a miss in an ambiguous segment does not count
        ([(0, 10)], [(20, 30, 1), (0, 10, 0)], [(30, 40)], 0.5),  # touching is not overlapping
        ([(0, 10)], [(0, 10, 1)], [(0, 10)], 1.0),  # a hit counts anyway
        ([(5, 5)], [(5, 5, 1)], [], 0.0),  # empty segments overlap nothing
        ([(0, 10)], [(10, 0, 1)], [(0, 10)], 0.0),  # nor do inverted ones
        ([(0, 10)], [], [], 0.0),
    ],
)
def test_rules(truth, found, ambiguous, ap):
    rows = [[("v", "run", *row) for row in rows] for rows in (truth, found, ambiguous)]
    given = [table(["v"], ["run"], some) for some in rows]
    assert kit_ap(*given, np.array([0.5])).tolist() == [[ap]]


def test_ground_truths_are_taken_in_the_order_of_their_rows():
    found = table(["v"], ["run"], [("v", "run", 3, 10, 1), ("v", "run", 0, 4.5, 0)])
    first, second = ("v", "run", 2, 9), ("v", "run", 3, 10)  # the second could have it whole, the first takes it before
    for rows in ([first, second], [second, first]):
        assert_like_plain(table(["v"], ["run"], rows), found, None, [0.1, 0.3, 0.5])
    values = [
        kit_ap(table(["v"], ["run"], rows), found, None, np.array([0.2]))[0, 0] for rows in ([first, second], [second, first])
    ]
    assert values == [0.5, 1.0]


def test_equal_scores_go_by_the_names_of_their_videos():
    names = ["d", "f", "b", "a", "e", "c"]
    found = table(names, ["run"], [(name, "run", 0, 10, 1) for name in names])
    for place, name in enumerate("abcdef"):
        truth = table(names[::-1], ["run"], [(name, "run", 0, 10)])
        assert kit_ap(truth, found, None, np.array([0.5])) == 1 / (place + 1)


def test_published_detections():
    if not (STPN.exists() and OFFICIAL.exists()):
        pytest.skip("the published detections or the official annotations are not here")
    truth, ambiguous = read_annotations(OFFICIAL)
    mean_ap = kit_ap(truth, read_predictions(STPN), ambiguous, TIOU).mean(axis=0)
    expected = [
        0.4656872399263435,
        0.40286048961652376,
        0.32452324596678805,
        0.2503615285941184,
        0.1715628141077807,
        0.09731153097081056,
    ]
    np.testing.assert_allclose(mean_ap, expected, rtol=0, atol=1e-12)


# ---------------------------------------------------------------------------------------------------------- files

NAMES = st.text(st.characters(codec="ascii", exclude_categories=["C", "Z"]), min_size=1, max_size=9)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(st.tuples(NAMES, st.sampled_from(sorted(CLASS_IDS)), NUMBERS, NUMBERS, NUMBERS), max_size=9))
def test_text_round_trip(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("kit") / "detections.txt"
    write_kit(path, table(sorted({row[0] for row in rows}), sorted(CLASS_IDS), rows))
    assert rows_of(read_kit(path)) == rows
    assert [file.name for file in path.parent.iterdir()] == ["detections.txt"]


def test_published_detections_as_text(tmp_path):
    if not (STPN.exists() and OFFICIAL.exists()):
        pytest.skip("the published detections or the official annotations are not here")
    found = read_predictions(STPN)
    write_kit(tmp_path / "stpn.txt", found)
    again = read_kit(tmp_path / "stpn.txt")
    assert rows_of(again) == rows_of(found)
    truth, ambiguous = read_annotations(OFFICIAL)
    np.testing.assert_array_equal(kit_ap(truth, again, ambiguous, TIOU), kit_ap(truth, found, ambiguous, TIOU))


def test_reads_what_others_write(tmp_path):
    path = tmp_path / "detections.txt"
    path.write_bytes(b"\xef\xbb\xbfvideo_test_0000004\t1 2.50  9 -1e-3\r\n\r\n  \nvideo_test_0000006 3 4 97 .5")
    assert rows_of(read_kit(path)) == [
        ("video_test_0000004", "BasketballDunk", 1.0, 2.5, -0.001),
        ("video_test_0000006", "VolleyballSpiking", 3.0, 4.0, 0.5),
    ]
    path.write_text("")
    assert len(read_kit(path)) == 0


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("v 1 2 7", "'v 1 2 7' has 4 words"),
        ("v 1 2 7 0.5 0.5", "has 6 words"),
        ("v 1 2 8 0.5", "class id '8'"),
        ("v 1 2 HighJump 0.5", "class id 'HighJump'"),
        ("v 1 2 7.5 0.5", "class id '7.5'"),
        ("v one 2 7 0.5", "'one 2 0.5'"),
        ("v 1 2 7 nan", "'1 2 nan'"),
        ("v 1 inf 7 0.5", "'1 inf 0.5'"),
        ("v 1 1e999 7 0.5", "'1 1e999 0.5'"),
        ("v 1 2_0 7 0.5", "'1 2_0 0.5'"),
    ],
)
def test_bad_lines(tmp_path, line, found):
    path = tmp_path / "detections.txt"
    path.write_text(f"v 1 2 7 0.5\n\n{line}\nv 1 2 7 0.5\n")
    with pytest.raises(InputError) as error:
        read_kit(path)
    assert str(error.value).startswith(f"{path}, line 3: ")
    assert found in str(error.value) and "expected video start end class_id score" in str(error.value)


def test_bad_files(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_kit(tmp_path / "none.txt")
    with pytest.raises(InputError, match="not a file"):
        read_kit(tmp_path)
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe1")
    with pytest.raises(InputError, match="not UTF-8"):
        read_kit(tmp_path / "bytes.txt")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("v", "Walking", 1, 2, 3), "no class 'Walking'"),
        (("a video", "Diving", 1, 2, 3), "'a video' is empty or has spaces"),
        (("", "Diving", 1, 2, 3), "'' is empty or has spaces"),
        (("v", "Diving", 1, 2, np.inf), "not finite"),
        (("v", "Diving", 1, np.nan, 2), "not finite"),
        (("v", "Diving", 1, 2), "scores are missing"),
    ],
)
def test_what_cannot_be_written(tmp_path, row, message):
    path = tmp_path / "detections.txt"
    path.write_text("kept")
    with pytest.raises(InputError, match=message):
        write_kit(path, table([row[0]], [row[1]], [row]))
    assert path.read_text() == "kept"
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def annotations(tmp_path):
    """A folder of small annotation files."""
    folder = tmp_path / "official" / "temporal_annotations_test"
    folder.mkdir(parents=True)
    for number, name in enumerate(CLASS_IDS):
        (folder / f"{name}_test.txt").write_text(f"v{number}  1.5 2\nv0 0 1\n")
    (folder / "Ambiguous_test.txt").write_text("v99  3.0 4.0\n")
    return folder


def test_annotations(annotations):
    for folder in (annotations, annotations.parent, str(annotations)):
        truth, ambiguous = read_annotations(folder)
        assert truth.labels == list(CLASS_IDS) == sorted(CLASS_IDS) and len(truth) == 40
        assert rows_of(truth)[2:4] == [("v1", "BasketballDunk", 1.5, 2.0), ("v0", "BasketballDunk", 0.0, 1.0)]
        assert rows_of(ambiguous) == [("v99", "Ambiguous", 3.0, 4.0)]
    for file in annotations.iterdir():
        file.rename(annotations / file.name.replace("_test", "_val"))
    assert rows_of(read_annotations(annotations)[0]) == rows_of(truth)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("Diving_test.txt", None, "no Diving_test.txt"),
        ("Ambiguous_test.txt", None, "no Ambiguous_test.txt"),
        ("Diving_test.txt", "", "Diving_test.txt: no annotation"),
        ("Diving_test.txt", "v 1 2\nv 1", "Diving_test.txt, line 2: 'v 1' has 2 words; expected video start end"),
        ("Diving_test.txt", "v 1 two", "Diving_test.txt, line 1: '1 two'; expected video start end"),
        ("Ambiguous_test.txt", "v 1 nan", "Ambiguous_test.txt, line 1: '1 nan'"),
    ],
)
def test_bad_annotations(annotations, name, text, message):
    (annotations / name).unlink()
    if text is not None:
        (annotations / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_annotations(annotations)


def test_no_annotations(tmp_path):
    with pytest.raises(InputError, match="expected the official annotations"):
        read_annotations(tmp_path / "nowhere")


def test_official_annotations(thumos_gt):
    if not OFFICIAL.exists():
        pytest.skip("the official annotations are not here")
    truth, ambiguous = read_annotations(OFFICIAL)
    assert (len(truth.videos), len(truth), len({*truth.videos, *ambiguous.videos})) == (212, 3358, 213)
    validation, _ = read_annotations(OFFICIAL / "temporal_annotations_validation")
    assert (len(validation.videos), len(validation)) == (200, 3007)
    usual = sorted(rows_of(read_ground_truth(thumos_gt)))
    assert usual == sorted(r for r in rows_of(truth) if r[0][-7:] not in ("0000270", "0001292", "0001496"))
