"""Where curves cross, on numbers that can be checked by hand."""

import pytest

from polyalign.reporting.crossing import Point, crossings


def points(*differences, passes=True):
    """Points at 1,000, 10,000, 100,000 ... texts and a hundredth, a tenth, one ... passes."""
    return [
        Point(1000 * 10**n, 0.01 * 10**n if passes else None, difference, 0) for n, difference in enumerate(differences)
    ]


@pytest.mark.parametrize(
    ("differences", "words"),
    [
        ((1, 2, 3), "ahead throughout"),
        ((-1, -2, 0), "behind throughout"),
        ((-1, 1), "ahead from 3,162 texts (0.032 passes)"),  # half-way between 10^3 and 10^4
        ((-1, -3, 1), "ahead from 56k texts (0.56 passes)"),  # three quarters of the way from 10^4 to 10^5
        ((-1, -1, -1, -1, 0, 1), "ahead from 10,000k texts (100 passes)"),
        ((1, -3, 1), "behind from 1,778 texts (0.018 passes), ahead from 56k texts (0.56 passes)"),
    ],
)
def test_the_place_is_interpolated_over_the_logarithm(differences, words):
    assert crossings(points(*differences)) == words


def test_without_known_rows_there_are_no_passes():
    assert crossings(points(-1, 1, passes=False)) == "ahead from 3,162 texts"
