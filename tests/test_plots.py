"""Pictures: what they show of odd data, labels and histories, and what they refuse."""

import inspect
import itertools
import re
import warnings
from pathlib import Path
from types import SimpleNamespace

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

import npvae
from npvae import plots
from npvae.training import Epoch

NAN, INF = float("nan"), float("inf")
PAGE = (Path(__file__).parents[1] / "docs" / "pictures.md").read_text()


def axes():
    return Figure().add_subplot()


def epochs(*bounds, valid=()):
    """Epochs of 1000 samples with these bounds."""
    rows = itertools.zip_longest(bounds, valid, fillvalue=NAN)
    return [Epoch(n, 1000 * n, bound, other, float(n)) for n, (bound, other) in enumerate(rows, 1)]


def model_of(J=2, D=16, history=(), fill=None):
    """What looks like a fitted model of J latents and D columns; all its answers are `fill`, if it is given."""
    rng = np.random.default_rng(0)
    make = (lambda *shape: rng.random(shape)) if fill is None else lambda *shape: np.full(shape, fill)
    return SimpleNamespace(
        history_=list(history),
        transform=lambda X: make(len(X), J),
        reconstruct=lambda X: make(len(X), D),
        inverse_transform=lambda Z: make(len(Z), D),
        sample=lambda n, mean: make(n, D),
    )


# Learning curve -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bounds, labels",
    [
        ([], []),
        ([-100.0], ["training, last -100.0"]),
        ([NAN], ["training (1 not finite)"]),
        ([-INF, NAN, INF], ["training (3 not finite)"]),
        ([-1.7e308, 1.7e308, -5.0], ["training, last -5.0 (2 not finite)"]),
        ([-500.0, -105.0, NAN], ["training, last finite -105.0 (1 not finite)"]),
        ([-1e29, -1e30], ["training, last -1e+30"]),
    ],
)
def test_a_curve_of_any_bounds_is_drawn(bounds, labels):
    figure = Figure()
    ax = plots.learning_curve(epochs(*bounds), ax=figure.add_subplot())
    figure.canvas.draw()
    assert ax.get_legend_handles_labels()[1] == labels
    texts = [text.get_text() for text in ax.texts]
    assert ("no epoch with a finite bound" in texts) == (not np.any(np.isfinite(bounds)) or not bounds)


@pytest.mark.parametrize(
    "bounds, valid",
    [
        ([-500.0, -105.0, -100.0], ()),
        ([-500.0, -105.0, -100.0], (-510.0, -110.0, -140.0)),
        ([-100 - 1e6 / n**4 for n in range(1, 50)], ()),
        ([-100.0, -90.0, -1e5], ()),  # diverges
        ([-1e5, -3.0], ()),
        ([-3.0] * 5, ()),
    ],
)
def test_the_last_value_is_visible_and_the_first_does_not_squeeze_the_rest(bounds, valid):
    ax = plots.learning_curve(epochs(*bounds, valid=valid), ax=axes())
    low, high = ax.get_ylim()
    assert all(low < curve[-1] < high for curve in (bounds, valid) if len(curve))
    assert high >= max(bounds)
    upper = np.quantile([*bounds, *valid], 0.5)
    if len(bounds) > 2 and min(bounds[-1], *valid, 0) == bounds[-1] and bounds[-1] == max(bounds) > upper:
        assert high - low < 7 * (max(bounds) - upper)  # the better half has a seventh of the height
    below = sum(value < low for value in (*bounds, *valid))
    assert ax.get_xlabel() == "training samples seen" + (
        f"\n{below} of {len([*bounds, *valid])} values lie below, from {plots._show(min(*bounds, *valid))}"
        if below
        else ""
    )


def test_a_test_curve_and_gaps_in_the_validation_bounds_are_drawn():
    ax = plots.learning_curve(
        epochs(-9.0, -8.0, -7.0, valid=(-9.5, NAN, -7.5)), [(1000, -9.1), (3000, -7.2)], ax=axes()
    )
    training, validation, test = (line.get_ydata() for line in ax.lines)
    np.testing.assert_array_equal(training, [-9, -8, -7])
    np.testing.assert_array_equal(validation, [-9.5, NAN, -7.5])
    np.testing.assert_array_equal(test, [-9.1, -7.2])
    colors = [line.get_color() for line in ax.lines]
    assert all(least_distance(colors, vision) > 33 for vision in VISION)


# Images ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values, limits",
    [
        (np.arange(17.0), (0, 16)),
        (np.arange(256).astype(np.uint8), (0, 255)),
        (np.array([0, 16], np.uint8), (0, 16)),
        (np.array([False, False]), (0, 1)),
        (np.array([-2.5, 2.5]), (-2.5, 2.5)),
        (np.array([1.2e-5, 0.9991]), (0, 1)),
        (np.array([0.3, 0.3]), (0, 1)),
        (np.array([7, 7]), (0, 7)),
        (np.array([-7.0, -7.0]), (-7, 0)),
        (np.array([0, 3e-200]), (0, 3e-200)),
        (np.array([1e6, 1e6 + 1]), (1e6, 1e6 + 1)),
        (np.array([NAN, 0.0, 4.0]), (0, 4)),
        (np.array([NAN, INF]), (0, 1)),
    ],
)
def test_images_are_drawn_on_the_range_of_their_values_and_the_title_says_it(values, limits):
    ax = plots.show_images(np.resize(values, (3, 4 * len(values))), (2, 2 * len(values)), title="T", ax=axes())
    assert ax.images[0].get_clim() == pytest.approx(limits, rel=1e-9)
    title, note = ax.get_title().split("\n")
    assert title == "T" and note.startswith(f"black {limits[0]:.4g}, white {limits[1]:.4g}")
    assert ("without a number: " in note) == bool(np.any(~np.isfinite(values.astype(float))))


def test_values_outside_of_given_limits_are_counted():
    ax = plots.show_images(np.arange(16).reshape(4, 4), limits=(4, 15), ax=axes())
    assert ax.get_title() == "black 4, white 15; 25.00% of the values lie outside"
    assert ax.images[0].get_clim() == (4, 15)


@pytest.mark.parametrize("n", [1, 9, 10, 11, 23])
def test_places_without_an_image_are_empty(n):
    X = np.random.default_rng(0).random((n, 4))
    drawn = plots.show_images(X, ax=axes()).images[0].get_array()
    columns, lines = min(n, 10), -(-n // 10)
    assert drawn.shape == (3 * lines - 1, 3 * columns - 1)
    assert np.ma.count(drawn) == 4 * n  # the lines between images are masked too


def test_colours_are_scaled_together_and_missing_pixels_have_the_colour_of_gaps():
    X = np.zeros((2, 2, 2, 3))
    X[0, 0, 0] = 8, 4, 0
    X[1, 1, 1, 2] = NAN
    drawn = plots.show_images(X, ax=axes()).images[0].get_array()
    np.testing.assert_allclose(drawn[0, 0], [1, 0.5, 0])
    np.testing.assert_allclose([drawn[0, 2], drawn[1, 4]], [to_rgb(plots.GAP)] * 2)
    assert plots.as_images(np.zeros((5, 12)), (2, 2, 3)).shape == (5, 2, 2, 3)
    assert plots.as_images(np.zeros((5, 2, 2, 1))).shape == (5, 2, 2)


@pytest.mark.parametrize("n", [1, 3, 10, 23, 80])
def test_each_reconstruction_is_below_its_image(n):
    X = np.arange(1.0, 4 * n + 1).reshape(n, 4)
    model = SimpleNamespace(reconstruct=lambda X: -np.asarray(X))
    ax = plots.reconstructions(model, X, ax=axes())
    drawn, columns, shown = ax.images[0].get_array(), min(n, 10), min(n, 50)
    for i in range(shown):
        line, column = divmod(i, columns)
        for place, image in ((2 * line, X[i]), (2 * line + 1, -X[i])):
            np.testing.assert_array_equal(drawn[3 * place :, 3 * column :][:2, :2], image.reshape(2, 2))
    assert np.ma.count(drawn) == 8 * shown and "without a number" not in ax.get_title()


def test_uint8_pixels_are_drawn_as_the_model_reads_them():
    X = np.array([[0, 51, 102, 255]], np.uint8)
    given = lambda model: plots.reconstructions(model, X, ax=axes()).images[0].get_array()[:2, :2].ravel()
    same = lambda X: np.zeros(X.shape)
    np.testing.assert_allclose(given(SimpleNamespace(reconstruct=same)), [0, 0.2, 0.4, 1])
    preprocessor = SimpleNamespace(unit_of=lambda dtype: 1.0)
    np.testing.assert_array_equal(given(SimpleNamespace(reconstruct=same, preprocessor_=preprocessor)), X[0])
    with pytest.warns(UserWarning, match="the largest uint8 value is 16: divided by 255"):
        plots.as_unit_interval(np.array([0, 16], np.uint8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert plots.as_unit_interval([[0.5, 16.0]]).max() == 16


@pytest.mark.parametrize(
    "images, shape, error, message",
    [
        (np.zeros((2, 6)), None, ValueError, r"rows of 6 pixels are no squares; expected .* such as \(2, 3\)"),
        (np.zeros((2, 560)), (28, 28), ValueError, r"image_shape is \(28, 28\), for 784 pixels, .* rows of 560"),
        (np.zeros((2, 4)), 2, ValueError, r"image_shape is 2; expected \(height, width\)"),
        (np.zeros((2, 4)), (2.0, 2), ValueError, r"image_shape is \(2.0, 2\); expected"),
        (np.zeros((2, 2, 2, 2)), None, ValueError, r"images has 2 channels .* expected 1, or 3"),
        (np.zeros(4), None, ValueError, r"images has the shape \(4,\); expected images as rows"),
        (np.zeros((0, 4)), None, ValueError, r"images has the shape \(0, 4\); .* at least one"),
        ([["a"]], None, TypeError, "images is of type <U1; expected numbers"),
        ([[1], [1, 2]], None, TypeError, "images is of type list, with rows of different lengths"),
        (None, None, TypeError, "images is None; expected an array"),
    ],
)
def test_what_are_no_images_is_refused(images, shape, error, message):
    with pytest.raises(error, match=message):
        plots.show_images(images, shape, ax=axes())


# Manifold and latent space --------------------------------------------------------------------------------------------


def test_the_sides_of_the_manifold_have_the_latent_values_of_their_images():
    seen = {}

    def decode(Z):
        seen["Z"] = Z
        return np.tile(Z[:, :1], (1, 6))

    model = SimpleNamespace(transform=lambda X: X, inverse_transform=decode)
    X = np.random.default_rng(0).normal(size=(50, 3)) * [1, 0.1, 3]
    ax = plots.manifold(model, X, (2, 3), side=20, ax=axes())
    Z = seen["Z"].reshape(20, 20, 3)
    assert not Z[:, :, 1].any() and (ax.get_xlabel(), ax.get_ylabel()) == ("z1", "z3")
    for place, label in zip(ax.get_xticks(), ax.get_xticklabels()):
        assert float(label.get_text()) == pytest.approx(Z[0, round((place - 1) / 4), 0], abs=0.005)
    for place, label in zip(ax.get_yticks(), ax.get_yticklabels()):
        assert float(label.get_text()) == pytest.approx(Z[round((place - 0.5) / 3), 0, 2], abs=0.005)
    assert Z[0, 0, 2] > Z[-1, 0, 2]  # upwards
    assert len(ax.get_xticks()) >= 5 and len(ax.get_yticks()) >= 5


def test_the_manifold_of_one_latent_goes_line_by_line():
    seen = []
    model = SimpleNamespace(transform=lambda X: X[:, :1], inverse_transform=lambda Z: seen.append(Z) or np.tile(Z, 4))
    ax = plots.manifold(model, np.zeros((2, 4)), side=5, ax=axes())
    assert np.all(np.diff(seen[0][:, 0]) > 0) and len(seen[0]) == 25
    assert len(ax.get_yticks()) == 5 and len(ax.get_xticks()) == 0


@pytest.mark.parametrize("J", [1, 2, 7])
@pytest.mark.parametrize(
    "y, names",
    [
        (None, None),
        ([3, 1, 2, 1, 3, 2, 10, 10], ["1", "2", "3", "10"]),
        (["b", "a", None, "a", "b", NAN, "a", "c"], ["a", "b", "c", "missing"]),
        (pd.Series(["x", "y"] * 4, index=range(8, 0, -1)), ["x", "y"]),
        (pd.Series(pd.Categorical(["x", None] * 4)), ["x", "missing"]),
        (pd.DataFrame({"label": [1.0, 2.0] * 3 + [NAN, 1.5]}), ["1", "1.5", "2", "missing"]),
        (pd.array([1, None] * 4, dtype="Int64"), ["1", "missing"]),
        ([True, False] * 4, ["False", "True"]),
        ([None] * 8, ["missing"]),
        (np.arange(8), [str(n) for n in range(8)]),
    ],
)
def test_labels_of_all_kinds_have_a_legend(J, y, names):
    X = np.random.default_rng(0).normal(size=(8, 3))
    ax = plots.latent_space(model_of(J), X, y, ax=axes())
    legend = ax.get_legend()
    assert (None if legend is None else [text.get_text() for text in legend.get_texts()]) == names


def test_sixty_classes_differ_in_colour_or_marker_and_further_ones_are_named():
    labels = [f"c{n:02}" for n in range(60)]
    styles = [style for _, style, _ in plots._classes(np.array(labels, object), 60)]
    assert len(set(styles)) == 60
    assert len({color for color, _ in styles[:10]}) == 10
    more = np.array([*labels, *labels, "x", "y", None], object)
    names = [name for name, *_ in plots._classes(more, len(more))]
    assert names == [*labels, "2 other labels", "missing"]
    assert sum(np.count_nonzero(rows) for *_, rows in plots._classes(more, len(more))) == len(more)


def test_numbers_of_many_values_have_a_colour_scale():
    figure, X = Figure(), np.zeros((40, 2))
    y = np.arange(40.0)
    y[3] = NAN
    plots.latent_space(model_of(2), X, y, ax=figure.add_subplot())
    assert len(figure.axes) == 2 and figure.axes[1].get_ylabel() == "label"
    assert figure.axes[0].get_legend() is None


@pytest.mark.parametrize("y, shape", [([1, 2], r"\(2,\)"), (np.zeros((8, 2)), r"\(8, 2\)"), ("label", r"\(\)")])
def test_labels_of_another_number_are_refused(y, shape):
    with pytest.raises(ValueError, match=rf"y has the shape {shape}; expected \(8,\), a label for each row of X"):
        plots.latent_space(model_of(), np.zeros((8, 3)), y, ax=axes())


def test_rows_that_are_not_finite_are_counted():
    model = SimpleNamespace(transform=lambda X: np.array([[0.0, 1.0], [NAN, 0.0], [INF, 2.0], [3.0, 4.0]]))
    ax = plots.latent_space(model, np.zeros((4, 3)), ["a", "b", "a", "a"], ax=axes())
    assert ax.get_title() == "Posterior means; 2 rows are not finite"
    assert sum(len(points.get_offsets()) for points in ax.collections) == 2


# Colours --------------------------------------------------------------------------------------------------------------

#: Colour vision, as matrices of linear RGB: complete dichromacy of each kind (Machado, Oliveira and Fernandes, 2009).
VISION = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def lab(rgb):
    """Return CIE L*a*b* (n, 3), with white at D65, of linear RGB (n, 3)."""
    to_xyz = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    )
    t = rgb @ to_xyz.T / to_xyz.sum(axis=1)
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


def least_distance(colors, vision):
    """Return the least distance of two colours in CIE Lab, as a person with this vision sees them."""
    rgb = np.array([to_rgb(color) for color in colors])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = lab(np.clip(linear @ np.transpose(VISION[vision]), 0, 1))
    return min(float(np.linalg.norm(a - b)) for a, b in itertools.combinations(seen, 2))


@pytest.mark.parametrize("vision", VISION)
def test_ten_colours_can_be_told_apart(vision):
    assert len(plots.COLORS) == 10
    assert least_distance(plots.COLORS, vision) > 33
    assert least_distance([*plots.COLORS, "white"], vision) > 14  # the page


def test_the_distance_is_that_of_the_field_and_finds_the_colours_of_before_too_near():
    black_and_white = lab(np.array([[0.0, 0, 0], [1, 1, 1]]))
    np.testing.assert_allclose(black_and_white, [[0, 0, 0], [100, 0, 0]], atol=1e-3)
    np.testing.assert_allclose(lab(np.array([[1.0, 0, 0]]))[0], [53.24, 80.09, 67.20], atol=0.01)  # red of sRGB
    tab10 = matplotlib.color_sequences["tab10"]
    assert min(least_distance(tab10, vision) for vision in VISION) < 5


def table():
    """Return the table of the docs."""
    rows = {"`plots.COLORS`, 10": plots.COLORS, "matplotlib's tab10, 10": matplotlib.color_sequences["tab10"]}
    lines = [f"| least distance of two colours | {' | '.join(VISION)} |", "|---|---|---|---|---|"]
    for name, colors in rows.items():
        lines.append(f"| {name} | {' | '.join(f'{least_distance(colors, vision):.1f}' for vision in VISION)} |")
    return "\n".join(lines)


def test_the_docs_have_the_table():
    assert table() in PAGE


# All of them ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", range(1, 13))
def test_a_page_has_no_empty_place(n):
    figure = plots._page([lambda ax: None] * n)
    figure.set_layout_engine("none")
    spans = [ax.get_subplotspec() for ax in figure.axes]
    rows, columns = spans[0].get_gridspec().get_geometry()
    covered = sum(len(span.rowspan) * len(span.colspan) for span in spans)
    assert len(figure.axes) == n and covered == rows * columns


@pytest.mark.parametrize("J", [1, 2, 5])
@pytest.mark.parametrize("fill", [None, NAN, INF, -1e308, 1e200, 1e-300, 0.0])
def test_a_summary_of_any_answers_is_drawn(J, fill):
    bound = NAN if fill is None else fill
    model = model_of(J, history=epochs(bound, bound), fill=fill)
    figure = plots.summary(model, np.zeros((7, 16)), (4, 4), y=list("aabbabc"), test_curve=[(1000, bound)])
    assert len(figure.axes) == 5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.canvas.draw()


@pytest.mark.parametrize("form", [np.asarray, np.ndarray.tolist, pd.DataFrame, lambda X: X.reshape(-1, 4, 4)])
def test_data_is_a_list_an_array_a_data_frame_or_images(form):
    X = np.random.default_rng(0).random((30, 16))
    model = npvae.VAE(2, hidden_layer_sizes=(4,), learning_rate=0.05, max_epochs=1, backend="reference")
    data = form(X)
    model.fit(data if np.ndim(data) == 2 else X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as those about missing names of columns
        assert len(plots.summary(model, data, (4, 4), y=[1, 2, 3] * 10).axes) == 5
        for draw in (plots.reconstructions, plots.manifold, plots.latent_space):
            ax = axes()
            assert draw(model, data, ax=ax) is ax
            assert draw(ax, model, data) is ax  # as in version 0.1


DRAWINGS = {
    "show_images": (np.zeros((2, 4)),),
    "learning_curve": (epochs(-1.0),),
    "reconstructions": (model_of(), np.zeros((2, 16))),
    "manifold": (model_of(), np.zeros((2, 16))),
    "latent_space": (model_of(), np.zeros((2, 16))),
}


def test_every_function_that_draws_into_axes_is_listed():
    functions = inspect.getmembers(plots, inspect.isfunction)
    public = {name: function for name, function in functions if not name.startswith("_")}
    assert {name for name, function in public.items() if "ax" in inspect.signature(function).parameters} == set(
        DRAWINGS
    )


def test_the_page_names_every_function_and_its_code_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {name for name, function in inspect.getmembers(plots, inspect.isfunction) if not name.startswith("_")}
    own = {name for name in names if getattr(plots, name).__module__ == plots.__name__}
    assert set(re.findall(r"`(\w+)\(", PAGE)) == own
    try:
        for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
            exec(compile(code, "pictures.md", "exec"), {})
    finally:
        pyplot.close("all")
    assert (tmp_path / "summary.png").exists()


@pytest.mark.parametrize("name", DRAWINGS)
def test_axes_are_made_when_none_are_given(name):
    draw = getattr(plots, name)
    try:
        ax = draw(*DRAWINGS[name])
        assert pyplot.gcf() is ax.figure
    finally:
        pyplot.close("all")
    with pytest.raises(TypeError, match="ax is of type int; expected matplotlib axes"):
        draw(*DRAWINGS[name], ax=3)


@pytest.mark.parametrize(
    "draw, message",
    [
        (lambda: plots.learning_curve(5, ax=axes()), "history is of type int; expected a list of epochs"),
        (lambda: plots.learning_curve([], [1, 2], ax=axes()), r"test is \[1, 2\]; expected pairs"),
        (lambda: plots.latent_space(None, [[1.0]], ax=axes()), "model is None; expected a fitted VAE"),
        (lambda: plots.summary([1], [[1.0]]), "model is of type list; expected a fitted VAE"),
    ],
)
def test_other_arguments_are_refused(draw, message):
    with pytest.raises(TypeError, match=message):
        draw()


@pytest.mark.parametrize("limits", [(1, 1), (2, 1), (0, NAN), 3, "ab", (0, INF)])
def test_wrong_limits_are_refused(limits):
    with pytest.raises(ValueError, match="limits is .*; expected two numbers"):
        plots.show_images(np.zeros((1, 4)), limits=limits, ax=axes())


@pytest.mark.parametrize("draw", [plots.reconstructions, plots.manifold, plots.latent_space])
def test_a_model_that_is_not_fitted_says_so(draw):
    with pytest.raises(npvae.conventions.NotFittedError, match="this VAE is not fitted yet"):
        draw(npvae.VAE(), np.zeros((2, 4)), ax=axes())
