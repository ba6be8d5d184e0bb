"""The programs and their first numbers are those that the last review saw."""

import numpy as np
import pytest

import golden


# Of another processor or other versions: sums round differently, and training carries
# that on.
TOLERANCE = 1e-3
AGAIN = "if that is meant, `python tests/support/golden.py` writes the file anew"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "imagenet",
        *(
            pytest.param(name, marks=pytest.mark.extended)
            for name in golden.PROGRAMS
            if name != "imagenet"
        ),
    ],
)
def test_no_program_has_changed(name):
    """With other versions the same program is written otherwise."""
    expected, found = golden.read(), golden.programs(name)
    assert found.keys() <= expected["programs"].keys()
    here, there = golden.conditions()["versions"], expected["versions"]
    if here != there:
        pytest.skip(f"the file is of {there}, and here are {here}")
    for key, digest in found.items():
        assert digest == expected["programs"][key], f"another StableHLO: {key}; {AGAIN}"


@pytest.mark.extended
@pytest.mark.parametrize("name", ["imagenet", "quickstart"])
def test_the_first_losses(name, tmp_path, capsys):
    """The same to the last digit, or to rounding on another processor."""
    expected = golden.read()
    found = np.array(golden.losses(name, tmp_path))
    before = np.array(expected["losses"][name])
    assert len(found) == golden.STEPS
    differing = np.abs(found - before) / before
    largest = (
        f"the losses of {name} differ by up to {differing.max():.1e} of their size"
    )
    here = golden.conditions()
    there = {key: expected[key] for key in here}
    if here == there:
        assert differing.max() == 0, f"{largest}; {AGAIN}"
    elif differing.max():
        with capsys.disabled():
            print(f"\n{largest} from those of {there}")
    assert differing.max() < TOLERANCE, f"{largest} from those of {there}"
