"""The loop that turns by hand: what the cell's HTML holds. Turning it: test_accessibility.py."""

import json

import numpy as np
import pytest

from ecgtutorial.turning import TURNS, VIEWS, turning_loop

bs4 = pytest.importorskip("bs4")
LOOP = np.random.default_rng(0).standard_normal((3, 40))  # mV


def test_html_holds_picture_numbers_and_buttons():
    loop = turning_loop(
        {"QRS <1>": (LOOP, "#0072B2")}, {"II": (0.2, 0.97, -0.1)}, alt='a "loop" <wide>'
    )
    page = bs4.BeautifulSoup(loop.data, "html.parser")
    box = page.select_one(".turning")
    data = json.loads(box["data-loop"])
    name, xyz, colour = data["paths"][0]
    assert (name, colour) == ("QRS <1>", "#0072B2")
    assert np.allclose(xyz, LOOP, atol=5e-4)
    assert data["directions"] == [["II", [0.2, 0.97, -0.1]]]
    image = page.find("img")
    assert image["alt"] == data["alt"] == 'a "loop" <wide>'
    assert image["src"].startswith("data:image/png;base64,iVBOR")
    assert len(page.find_all("button")) == len(TURNS) + len(VIEWS)
    assert "PLOTLY_" not in loop.data


def test_same_input_gives_the_same_html():
    pages = {turning_loop({"QRS": (LOOP, "black")}, alt="a").data for _ in range(2)}
    assert len(pages) == 1


@pytest.mark.parametrize("xyz", [LOOP.T, LOOP[0], LOOP * np.nan])
def test_wrong_paths_are_named(xyz):
    with pytest.raises(ValueError, match="paths: 'QRS' has shape"):
        turning_loop({"QRS": (xyz, "black")}, alt="a")


def test_wrong_directions_are_named():
    with pytest.raises(ValueError, match="directions: 'II' has shape"):
        turning_loop({"QRS": (LOOP, "black")}, {"II": (1, 2)}, alt="a")
