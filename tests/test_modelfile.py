"""Model files: what is saved comes back, whole or not at all, and nothing else is taken for one."""

import collections
import contextlib
import copy
import functools
import io
import json
import pickle
import time
import tracemalloc
import zipfile

import numpy as np
import pytest
from conftest import THOROUGH

import npvae
from npvae import modelfile, persistence
from npvae.training import NonFiniteError


@pytest.fixture
def X(rng):
    return rng.standard_normal((40, 5)) * 3 + 1


@pytest.fixture
def model(X):
    return npvae.VAE(2, hidden_layer_sizes=(6, 4), learning_rate=0.05, max_epochs=3).fit(X, X_valid=X[:5])


@pytest.mark.parametrize("name", ["model.npz", "model", "model.of.mine"])
def test_round_trip(model, X, tmp_path, name):
    path = tmp_path / name
    model.save(path)
    loaded = npvae.load(path)
    assert [file.name for file in tmp_path.iterdir()] == [name]
    np.testing.assert_array_equal(loaded.score_samples(X), model.score_samples(X))
    np.testing.assert_array_equal(loaded.sample(3), model.sample(3))
    assert loaded.history_ == model.history_ and loaded.report_ == model.report_
    assert loaded.get_params() == model.get_params() and repr(loaded) == repr(model)


def test_save_replaces_whole_files_only(model, tmp_path, monkeypatch):
    path = tmp_path / "model.npz"
    model.save(path)
    before = path.read_bytes()
    monkeypatch.setattr(modelfile.os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        model.save(path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def rewrite(path, change):
    """Write a model file anew with its header and arrays changed."""
    header, arrays = modelfile.load(path)
    change(header, arrays)
    modelfile.save(path, header, arrays)


def as_in_version_4(header, arrays):
    """No data was binarized."""
    header["version"] = min(header["version"], 4)
    del header["binarize"], header["settings"]["binarize"]


def as_in_version_3(header, arrays):
    """Every optimizer had the same array, and there were no schedules and no averages."""
    as_in_version_4(header, arrays)
    header["version"] = min(header["version"], 3)
    del header["optimizer"]
    arrays["squares"] = arrays.pop("optimizer.squares", np.zeros_like(arrays["parameters"]))
    for name in ("schedule", "averaging"):
        del header["settings"][name]
    for name in ("best", "begun"):
        del header["progress"][name]


def test_grey_values_in_files_of_version_4(X, tmp_path):
    """Their grey values were what was trained on."""
    grey = np.clip(X / 4 + 0.5, 0, 1)
    model = npvae.VAE(2, likelihood="bernoulli", learning_rate=0.05, max_epochs=2, backend="reference").fit(grey)
    model.save(tmp_path / "old.npz")
    rewrite(tmp_path / "old.npz", as_in_version_4)
    old = npvae.load(tmp_path / "old.npz")
    assert old.binarize == "none" and old.score(grey) == model.score(grey)
    old.set_params(max_epochs=4).resume(grey)
    model.set_params(max_epochs=4).resume(grey)
    np.testing.assert_array_equal(old.parameters_.vector, model.parameters_.vector)


@pytest.mark.parametrize("optimizer, rate", [("adagrad", 0.05), ("sgd", 1e-3)])
def test_files_of_version_3(X, tmp_path, optimizer, rate):
    model = npvae.VAE(2, optimizer=optimizer, learning_rate=rate, max_epochs=2, backend="reference").fit(X)
    model.save(tmp_path / "old.npz")
    rewrite(tmp_path / "old.npz", as_in_version_3)
    old = npvae.load(tmp_path / "old.npz").set_params(max_epochs=4).resume(X)
    model.set_params(max_epochs=4).resume(X)
    np.testing.assert_array_equal(old.parameters_.vector, model.parameters_.vector)
    assert old.training_.optimizer.keys() == model.training_.optimizer.keys()


def test_files_of_version_0_1(X, tmp_path):
    """They had another name for random weights, and the running baseline as a number: they load and resume."""
    settings = {"hidden_layer_sizes": (6,), "learning_rate": 0.05, "backend": "reference", "n_samples": 2}
    path = tmp_path / "old.npz"

    def as_in_version_0_1(header, arrays):
        header["version"] = 2
        header["architecture"]["random"] = header["architecture"].pop("random_weights")
        state = arrays.pop("estimator.mean", None)
        header["progress"]["estimator"] = None if state is None else float(state[0])
        as_in_version_3(header, arrays)

    for estimator in ("sgvb-b", "score-function-running", "full-vb"):
        model = npvae.VAE(2, estimator=estimator, max_epochs=2, **settings).fit(X)
        model.save(path)
        rewrite(path, as_in_version_0_1)
        old = npvae.load(path).set_params(max_epochs=4).resume(X)
        model.set_params(max_epochs=4).resume(X)
        np.testing.assert_array_equal(old.parameters_.vector, model.parameters_.vector)


def test_fixed_columns_in_files_of_version_4(model, X, tmp_path):
    """Densities of columns that hardly vary were in the parameters: the score is that of the model."""
    model.save(tmp_path / "old.npz")

    def with_fixed_columns(header, arrays):
        as_in_version_4(header, arrays)
        header["fixed"] = [[1, -3.7], [2, 0.0]]

    rewrite(tmp_path / "old.npz", with_fixed_columns)
    old = npvae.load(tmp_path / "old.npz")
    np.testing.assert_array_equal(old.score_samples(X), model.score_samples(X))
    assert old.preprocessor_.fixed == ()
    old.save(tmp_path / "new.npz")
    assert npvae.load(tmp_path / "new.npz").score(X) == model.score(X)


@pytest.mark.parametrize("array", [np.zeros((3, 2)), np.arange(4), np.asfortranarray(np.arange(6.0).reshape(2, 3)),
                                   np.zeros((0, 5), np.float32), np.array(1.5)], ids=str)  # fmt: skip
def test_arrays_of_any_shape(tmp_path, array):
    modelfile.save(tmp_path / "m.npz", {}, {"a": array})
    _, arrays = modelfile.load(tmp_path / "m.npz")
    assert arrays["a"].dtype == array.dtype and arrays["a"].shape == array.shape
    np.testing.assert_array_equal(arrays["a"], array)


def test_arrays_of_other_types_are_refused(tmp_path):
    with pytest.raises(TypeError, match="the array a has type complex128; expected float32, float64 or int64"):
        modelfile.save(tmp_path / "m.npz", {}, {"a": np.zeros(2, complex)})
    assert not list(tmp_path.iterdir())


def test_a_shape_that_was_changed_is_damage(tmp_path):
    """The same numbers in another arrangement are not the same array, although the archive is whole."""
    path = tmp_path / "m.npz"
    modelfile.save(path, {}, {"a": np.arange(6.0).reshape(2, 3)})
    with np.load(path) as members:
        changed = {name: members[name] for name in members.files}
    changed["a"] = changed["a"].reshape(3, 2)
    with open(path, "wb") as file:
        np.savez(file, **changed)
    with pytest.raises(ValueError, match="is damaged: its members do not match its digest"):
        modelfile.load(path)


def test_links_and_long_names(model, tmp_path):
    """A link stays a link, a name may be as long as the folder allows, and a folder is no name."""
    (tmp_path / "link.npz").symlink_to(tmp_path / "target.npz")
    model.save(tmp_path / "link.npz")
    assert (tmp_path / "link.npz").is_symlink() and npvae.load(tmp_path / "target.npz").history_ == model.history_
    model.save(tmp_path / ("n" * 250))
    with pytest.raises(IsADirectoryError, match="expected the name of a file"):
        model.save(tmp_path)


def test_notes(model, tmp_path):
    model.save(tmp_path / "a", notes={"dataset": "mine", "numbers": [1, 2]})
    assert npvae.load(tmp_path / "a").notes_ == model.notes_ == {"dataset": "mine", "numbers": [1, 2]}
    with pytest.raises(TypeError, match="set is not JSON"):
        model.save(tmp_path / "b", notes={"a": {1}})
    model.save(tmp_path / "b")
    assert npvae.load(tmp_path / "b").notes_["dataset"] == "mine"


def test_what_could_not_be_read_again_is_not_written(model, tmp_path):
    path = tmp_path / "a"
    model.save(path)
    whole = path.read_bytes()
    with pytest.raises(ValueError, match="settings.patience is 0; expected an integer of at least 1"):
        model.set_params(patience=0).save(path)
    model.set_params(patience=3).parameters_.vector[2:4] = np.inf
    with pytest.raises(ValueError, match="parameters holds 2 NaN or infinite numbers; expected none"):
        model.save(path)
    assert path.read_bytes() == whole


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.npz"):
        npvae.load(tmp_path / "nothing.npz")


def test_foreign_and_damaged_files(model, tmp_path):
    path = tmp_path / "model.npz"
    model.save(path)
    whole = path.read_bytes()

    def write_npz(**arrays):
        with open(path, "wb") as file:
            np.savez(file, **arrays)

    def pickled():
        path.write_bytes(pickle.dumps({"a": 1}))

    def single_array():
        with open(path, "wb") as file:
            np.save(file, np.zeros(3))

    def header(**changes):
        _, arrays = modelfile.load(path)
        text = json.dumps({"format": modelfile.FORMAT, "version": modelfile.VERSION, **changes})
        write_npz(header=np.array(text), **arrays)

    for spoil in (
        lambda: path.write_bytes(b""),
        lambda: path.write_bytes(b"hello"),
        lambda: path.write_bytes(whole[: len(whole) // 2]),
        pickled,
        single_array,
        lambda: write_npz(parameters=np.zeros(3)),
        lambda: write_npz(header=np.array({"a": 1}, object)),
        lambda: write_npz(header=np.array('{"format": "another"}')),
        lambda: header(),
        lambda: header(settings={"n_components": 2, "unknown": 1}),
    ):
        path.write_bytes(whole)
        spoil()
        with pytest.raises(ValueError, match=r"model.npz is (not an npvae model|damaged)"):
            npvae.load(path)


def zipped(path, members, compression=zipfile.ZIP_STORED):
    """Write an archive of named bytes."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def npy(array):
    """Return the bytes of a ``.npy`` file, with pickles if it must be."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=True)
    return stream.getvalue()


class Bomb:
    """Says so if it is unpickled."""

    def __reduce__(self):
        return _explode, ()


def _explode():
    raise AssertionError("code in a model file was run")


def spoilers(whole, members, rng):
    """Yield functions that write a spoiled model file to a path."""

    def flipped():
        damaged = bytearray(whole)
        for _ in range(rng.choice([1, 1, 2, 8, 64])):
            damaged[rng.integers(len(whole))] ^= 1 << rng.integers(8)
        return bytes(damaged)

    def overwritten():
        start, stop = sorted(rng.integers(0, len(whole), 2))
        return whole[:start] + rng.bytes(min(stop - start, 1000)) + whole[start + min(stop - start, 1000) :]

    def swapped():
        one, other = rng.choice(list(members), 2, replace=False)
        return members | {one: members[other], other: members[one]}

    def lost():
        gone = rng.choice(list(members))
        return {name: content for name, content in members.items() if name != gone}

    def changed():
        name = rng.choice(list(members))
        content = bytearray(members[name])
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
        return members | {name: bytes(content)}

    def pickled():
        return members | {rng.choice(list(members)): npy(np.array([Bomb()], object))}

    def boasting():
        name = rng.choice([name for name in members if name != "header.npy"])
        shape = members[name][members[name].index(b"(") : members[name].index(b")") + 1]
        huge = str((int(rng.choice([2**20, 2**40, 2**62])),)).encode()
        return members | {name: members[name].replace(shape, huge)}

    def declared():
        """Claim, in the archive's directory, that a member has a gigabyte more."""
        damaged = bytearray(whole)
        entry = whole.rindex(b"PK\x01\x02")
        damaged[entry + rng.choice([23, 27])] ^= 1 << 6  # of its compressed size, or of its size
        return bytes(damaged)

    yield "bits", lambda path: path.write_bytes(flipped())
    yield "declared", lambda path: path.write_bytes(declared())
    yield "cut", lambda path: path.write_bytes(whole[: rng.integers(len(whole))])
    yield "overwritten", lambda path: path.write_bytes(overwritten())
    yield "swapped", lambda path: zipped(path, swapped())
    yield "lost", lambda path: zipped(path, lost())
    yield "changed", lambda path: zipped(path, changed())
    yield "pickle in a member", lambda path: zipped(path, pickled())
    yield "pickle", lambda path: path.write_bytes(pickle.dumps(Bomb()))
    yield "boasting", lambda path: zipped(path, boasting())
    yield "compressed", lambda path: zipped(path, members | {"more.npy": bytes(10**6)}, zipfile.ZIP_DEFLATED)
    yield "more", lambda path: zipped(path, members | {"more": rng.bytes(10)})


def test_spoiled_files_are_refused_or_do_no_harm(model, X, tmp_path, rng):
    """Flipped, cut, swapped, forged: none crashes, runs code, hangs, or takes more memory than the file's size."""
    path = tmp_path / "model.npz"
    model.save(path)
    whole, expected, refused = path.read_bytes(), model.score_samples(X), collections.Counter()
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    kinds, repeats = list(spoilers(whole, members, rng)), 10_000 // 12 + 1 if THOROUGH else 30
    for kind, spoil in kinds * repeats:
        spoil(path)
        tracemalloc.start()
        started = time.perf_counter()
        try:
            loaded = npvae.load(path)
        except ValueError as error:
            assert "model.npz" in str(error) and "\n" not in str(error)[:80]
            refused[kind] += 1
        else:
            np.testing.assert_array_equal(loaded.score_samples(X), expected)
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert time.perf_counter() - started < 5 and peak < 20 * len(whole) + 2**22
    assert min(refused[kind] for kind, _ in kinds if kind not in ("bits", "swapped", "overwritten")) >= repeats - 1
    assert refused["bits"] > repeats / 2 and refused["swapped"] > repeats / 2
    print(len(kinds) * repeats, "files, refused:", dict(refused))


def test_later_versions_and_wrong_sizes_are_refused(model, tmp_path):
    path = tmp_path / "model.npz"
    model.save(path)
    header, arrays = modelfile.load(path)
    modelfile.save(path, header, arrays | {"parameters": arrays["parameters"][:-1]})
    with pytest.raises(
        ValueError, match=r"damaged: parameters is float32 \(\d+,\); expected floats \(\d+,\), as in the"
    ):
        npvae.load(path)
    modelfile.save(path, header, {name: array for name, array in arrays.items() if name != "optimizer.squares"})
    with pytest.raises(ValueError, match="damaged: it lacks the array optimizer.squares"):
        npvae.load(path)
    modelfile.save(path, header | {"version": 6}, arrays)
    with pytest.raises(ValueError, match="has format version 6; this npvae reads 2, 3, 4, 5"):
        npvae.load(path)


# Files whole to the last bit, with entries that no training writes ----------------------------------------------------

#: Values that are wrong somewhere.
WRONG = (
    None, "x", "", -1, 0, 1, 2.5, 10**30, 1e300, -1e300, np.nan, np.inf, -np.inf, True, False, [], [1], ["a"] * 99,
    [[1]], [None], {"a": 1}, {}, "float64",
)  # fmt: skip

#: Values that are right, but too large for the model to do everything.
TOO_LARGE = {("settings", "n_samples"): [10**30], **{("fixed", i, 1): [10**30, 1e300, -1e300] for i in range(2)}}

DELETED = object()


def places(value, path=()):
    """Yield the path of every entry of a header, and of the first two items of every list."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


def with_entry(header, path, value):
    """Return a copy of a header with another value at a path, or without the entry."""
    header = copy.deepcopy(header)
    *parents, last = path
    record = functools.reduce(lambda record, key: record[key], parents, header)
    if value is DELETED:
        del record[last]
    else:
        record[last] = value
    return header


def wrong_arrays(array):
    """Yield arrays that cannot stand in the place of this one, and some that can."""
    first = np.arange(array.size).reshape(array.shape) == 0
    for value in (np.nan, np.inf, -np.inf):
        yield np.where(first, value, array).astype(array.dtype)
        yield np.append(array, array.dtype.type(value))
    yield from (-abs(array) - 1, 0 * array, array[:-1], np.append(array, array[:1]), array[None], array.reshape(-1, 1))
    yield from (np.array(1.0), array[:0], np.zeros(array.shape, np.int64), array.astype("f4"), array.astype("f8"))


def read(monkeypatch, header, arrays):
    """Load a model file of these contents, without the detour through a disk."""
    monkeypatch.setattr(modelfile, "load", lambda path: (copy.deepcopy(header), dict(arrays)))
    return npvae.load("spoiled.npz")


def refused_or_works(monkeypatch, header, arrays, names, X):
    """Return what refused the file, which names the entry, or None for a model that can do everything."""
    try:
        model = read(monkeypatch, header, arrays)
    except ValueError as error:
        assert str(error).startswith("spoiled.npz is damaged: ") and any(name in str(error) for name in names), error
        return str(error)
    assert np.all(np.isfinite(model.score_samples(X))) and str(getattr(model, "health_", "")) is not None
    assert np.all(np.isfinite(model.sample(2))) and repr(model) and model.transform(X).shape == (len(X), 2)
    persistence.to_file(model, model.notes_)
    # Data of other fingerprints, settings that do not go together, a step size with which training diverges.
    with contextlib.suppress(ValueError, NonFiniteError):
        model.set_params(max_epochs=3, verbose=False).resume(X, X_valid=X[:5])
        assert np.isfinite(model.score(X))
    return None


@pytest.fixture(params=["mixed", *(pytest.param(name, marks=pytest.mark.slow) for name in (
    "sgvb-b", "score-function-running", "full-vb", "fixed columns"))])  # fmt: skip
def contents(request, X, tmp_path):
    """Header and arrays of a file, and the data of its model."""
    settings = {"hidden_layer_sizes": (6, 4), "learning_rate": 0.05, "backend": "reference", "n_samples": 2}
    if request.param == "mixed":
        X = np.where(np.arange(5) < 2, X.mean(axis=0) < X, X)
    elif request.param == "fixed columns":
        X = np.where(np.arange(5) < 2, 3, X)
    else:
        settings["estimator"] = request.param
    model = npvae.VAE(2, max_epochs=2, **settings).fit(X, X_valid=X[:5])
    model.feature_names_in_ = np.array(list("abcde"), dtype=object)
    model.save(tmp_path / "model.npz", notes={"numbers": [1, 2]})
    return *modelfile.load(tmp_path / "model.npz"), X


@pytest.mark.filterwarnings("ignore:X does not have valid feature names", "ignore::RuntimeWarning")
def test_every_entry_with_every_wrong_value(contents, monkeypatch):
    header, arrays, X = contents
    assert read(monkeypatch, header, arrays).score(X) < 0
    counts = collections.Counter()
    for path in places({name: value for name, value in header.items() if name not in ("format", "version")}):
        names = {str(key) for key in path if isinstance(key, str)} | {"architecture"}
        for value in (*WRONG, DELETED):
            if value not in TOO_LARGE.get(path, ()):
                counts[refused_or_works(monkeypatch, with_entry(header, path, value), arrays, names, X) is None] += 1
    assert counts[False] > 4 * counts[True] > 0
    print(counts[False], "refused,", counts[True], "work")


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_every_array_with_wrong_numbers(contents, monkeypatch):
    header, arrays, X = contents
    counts = collections.Counter()
    for name, array in arrays.items():
        others = {other: array for other, array in arrays.items() if other != name}
        for wrong in [*wrong_arrays(array), None]:
            changed = others if wrong is None else {**others, name: wrong}
            refused = refused_or_works(monkeypatch, header, changed, (name, "dtype"), X)
            assert refused or np.all(np.isfinite(array))
            counts[refused is None] += 1
    assert counts[False] > 2 * counts[True] > 0
    print(counts[False], "refused,", counts[True], "work")


@pytest.mark.parametrize(
    "path, value, expected",
    [
        (("settings", "dtype"), "float16", "settings.dtype is 'float16'; expected one of 'float32', 'float64'"),
        (("settings", "dtype"), "float64", "settings.dtype is 'float64'; expected float32, as the parameters have"),
        (("settings", "old"), 1, "settings has 'old', which is not a setting of VAE"),
        (("fitted", "seed_"), -1, "fitted.seed_ is -1; expected an integer of at least 0"),
        (("fitted", "n_features_in_"), 4, "fitted.n_features_in_ is 4; expected 5, as in the architecture"),
        (("fitted", "feature_names_in_"), ["a", "b"], "fitted.feature_names_in_ is ['a', 'b']; expected a list of 5"),
        (("architecture", "activation"), "relu6", "architecture.activation is 'relu6'; expected one of 'tanh'"),
        (("units", 0), 0, "units[0] is 0; expected a number from 4.94e-324 to 1"),
        (("progress", "seen"), 41, "progress.seen is 41; expected an integer of at least 0 and at most 40"),
        (("progress", "rng", "state", "inc"), -3, "expected the state of a PCG64 generator"),
        (("history", 1, 2), np.nan, "history[1][2] is nan; expected a finite number"),
    ],
)
def test_the_file_and_the_entry_are_named(model, tmp_path, path, value, expected):
    file = tmp_path / "model.npz"
    model.save(file)
    header, arrays = modelfile.load(file)
    modelfile.save(file, with_entry(header, path, value), arrays)  # with a digest that is right
    with pytest.raises(ValueError) as error:
        npvae.load(file)
    assert str(error.value).startswith(f"{file} is damaged: ") and expected in str(error.value)


def test_history_without_validation_data_is_no_damage(X, tmp_path):
    """Its validation bound is NaN, and the best one -inf."""
    model = npvae.VAE(2, learning_rate=0.05, max_epochs=2, backend="reference").fit(X)
    model.save(tmp_path / "m.npz")
    loaded = npvae.load(tmp_path / "m.npz")
    assert np.isnan(loaded.history_[0].elbo_valid) and loaded.training_.progress.best_bound == -np.inf
