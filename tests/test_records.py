"""What records share: which cases are missing, and means over the photos of each."""

import numpy as np
from course.records import mean_over_photos, missing_cases


def test_what_has_no_row_yet_is_missing_in_order():
    rows = [{"steps": 10, "seed": 1, "photo": name} for name in "ab"]
    assert missing_cases([], steps=(10, 20), seed=(0, 1)) == [(10, 0), (10, 1), (20, 0), (20, 1)]
    assert missing_cases(rows, steps=(10, 20), seed=(0, 1)) == [(10, 0), (20, 0), (20, 1)]
    every = [{"steps": n, "seed": s} for n in (10, 20) for s in (0, 1)]
    assert missing_cases(every, steps=(10, 20), seed=(0, 1)) == []


def test_means_over_photos_have_a_row_per_seed_and_a_column_per_length():
    rows = [
        {"seed": seed, "steps": steps, "photo": photo, "one": value, "two": [value, 2 * value]}
        for seed in (3, 5)
        for steps in (10, 20)
        for photo, value in (("a", seed + steps), ("b", seed + steps + 4))
    ]
    record = {"seed": [3, 5], "settings": {"steps": [10, 20], "held_out": ["a", "b"]}, "rows": rows}
    expected = np.array([[15.0, 25.0], [17.0, 27.0]])
    means = mean_over_photos(record, "one", lambda row: "all")
    assert list(means) == ["all"] and np.array_equal(means["all"], expected)
    both = mean_over_photos(record, "two", lambda row: "all")["all"]
    assert np.array_equal(both, np.stack((expected, 2 * expected), 2))
