"""A VAE among scikit-learn's estimators: its own checks, pipelines, grid search, data frames."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

import npvae

sklearn = pytest.importorskip("sklearn")
pandas = pytest.importorskip("pandas")

from sklearn.base import clone  # noqa: E402
from sklearn.exceptions import NotFittedError  # noqa: E402
from sklearn.feature_extraction.text import CountVectorizer  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from sklearn.model_selection import GridSearchCV  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402

SMALL = {"n_components": 2, "hidden_layer_sizes": (8,), "max_epochs": 3, "learning_rate": 0.05}

#: Alone in its process, since scikit-learn reads the variable that allows array API input when it is imported.
CHECK = f"""
import npvae
from sklearn.utils.estimator_checks import check_estimator
results = []
for missing in ("error", "model"):
    results += check_estimator(npvae.VAE(missing=missing, **{SMALL!r}), on_fail=None, on_skip=None)
for result in results:
    if result["status"] != "passed":
        print(result["status"], result["check_name"], result["exception"])
print(len(results), "checks")
"""


@pytest.mark.process
def test_every_check_of_scikit_learn_passes(tmp_path):
    environment = os.environ | {"SCIPY_ARRAY_API": "1"}
    command = [sys.executable, "-W", "ignore", "-c", CHECK]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    *failed, last = ran.stdout.splitlines()
    assert not failed and int(last.split()[0]) > 80, ran.stdout


@pytest.fixture
def X(rng):
    return rng.standard_normal((60, 4)) @ rng.standard_normal((4, 6))


@pytest.fixture
def frame(X):
    return pandas.DataFrame(X, columns=list("abcdef"), index=range(100, 160))


def test_clone_and_pipeline(X):
    model = npvae.VAE(**SMALL, callbacks=[print])
    assert clone(model).get_params() == model.get_params() and clone(model).callbacks == [print]
    y = X[:, 0] > 0
    pipeline = make_pipeline(StandardScaler(), npvae.VAE(**SMALL), LogisticRegression()).fit(X, y)
    assert (
        pipeline.predict(X).shape == (60,) and pipeline.set_params(vae__n_components=3).fit(X, y)[1].n_components == 3
    )


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_grid_search_by_the_bound(X, n_jobs):
    search = GridSearchCV(npvae.VAE(**SMALL), {"n_components": [1, 2, 4]}, cv=3, n_jobs=n_jobs).fit(X)
    scores = search.cv_results_["mean_test_score"]
    assert np.all(np.isfinite(scores)) and search.best_score_ == max(scores)
    model = clone(npvae.VAE(**SMALL)).set_params(n_components=search.best_params_["n_components"]).fit(X)
    assert search.score(X) == model.score(X)


def test_words_to_codes():
    """Sparse matrices on their way through a pipeline, a grid search and data frames."""
    texts = ["the cat sat on the mat", "a cat and a mat", "stocks fell", "stocks rose and fell", "the mat"] * 12
    words = CountVectorizer(binary=True)
    pipeline = make_pipeline(words, npvae.VAE(**SMALL), LogisticRegression()).fit(texts, np.arange(60) % 2)
    X = words.transform(texts)
    np.testing.assert_array_equal(pipeline[:-1].transform(texts), pipeline[1].transform(X.toarray()))
    search = GridSearchCV(npvae.VAE(**SMALL), {"n_components": [1, 2]}, cv=3)
    assert search.fit(X).best_score_ == clone(search).fit(X.toarray()).best_score_
    out = npvae.VAE(**SMALL).set_output(transform="pandas").fit_transform(X)
    assert isinstance(out, pandas.DataFrame) and out.shape == (60, 2)
    assert npvae.VAE().__sklearn_tags__().input_tags.sparse


def test_data_frames_out(X, frame):
    polars = pytest.importorskip("polars")
    model = npvae.VAE(**SMALL).fit(frame)
    assert list(model.feature_names_in_) == list("abcdef") and list(model.get_feature_names_out()) == ["vae0", "vae1"]
    plain = model.transform(frame)
    out = model.set_output(transform="pandas").transform(frame)
    assert list(out.columns) == ["vae0", "vae1"] and list(out.index) == list(frame.index)
    np.testing.assert_array_equal(out.to_numpy(), plain)
    assert isinstance(model.set_output(transform="polars").transform(frame), polars.DataFrame)
    assert isinstance(model.set_output(transform="default").transform(frame), np.ndarray)
    assert model.reconstruct(frame).shape == model.set_output(transform="pandas").reconstruct(frame).shape == X.shape
    with sklearn.config_context(transform_output="pandas"):
        assert isinstance(npvae.VAE(**SMALL).fit_transform(frame), pandas.DataFrame)
    from_list = npvae.VAE(**SMALL).fit(X).set_output(transform="pandas").transform(X.tolist())
    assert isinstance(from_list, pandas.DataFrame) and from_list.shape == (60, 2)
    with pytest.raises(ValueError, match="transform is 'xarray'; expected one of 'default', 'pandas', 'polars'"):
        model.set_output(transform="xarray")


def test_feature_names(X, frame, tmp_path):
    model = npvae.VAE(**SMALL).fit(frame)
    with pytest.raises(ValueError, match=r"match those .*\n.*unseen at fit time:\n- g\n.*now missing:\n- a\n"):
        model.transform(frame.rename(columns={"a": "g"}))
    with pytest.raises(ValueError, match="same order"):
        model.score(frame[list("bacdef")])
    with pytest.warns(UserWarning, match="X does not have valid feature names, but VAE was fitted with"):
        model.transform(X)
    with pytest.raises(ValueError, match="same order"):
        npvae.VAE(**SMALL).fit(frame, X_valid=frame[list("fedcba")])
    assert list(npvae.fit(frame, max_epochs=1, verbose=False).feature_names_in_) == list("abcdef")
    model.save(tmp_path / "model.npz")
    assert list(npvae.load(tmp_path / "model.npz").feature_names_in_) == list("abcdef")
    with pytest.warns(UserWarning, match="X has feature names, but VAE was fitted without"):
        npvae.VAE(**SMALL).fit(X).transform(frame)


def test_unfitted_is_scikit_learns_error_too(X):
    with pytest.raises(NotFittedError, match="VAE is not fitted yet") as raised:
        npvae.VAE().transform(X)
    assert isinstance(raised.value, npvae.conventions.NotFittedError)


def test_a_pickled_model_mapped_read_only(X, tmp_path):
    """As joblib hands models to its processes."""
    joblib = pytest.importorskip("joblib")
    model = npvae.VAE(**SMALL | {"backend": "cpu"}).fit(X)
    joblib.dump(model, tmp_path / "model")
    mapped = joblib.load(tmp_path / "model", mmap_mode="r")
    assert not mapped.parameters_.vector.flags.writeable
    np.testing.assert_array_equal(mapped.score_samples(X), model.score_samples(X))
    assert mapped.partial_fit(X).score(X) != model.score(X)
    assert pickle.loads(pickle.dumps(mapped)).score(X) == mapped.score(X)
    Z = model.transform(X)
    Z.flags.writeable = False
    assert np.isfinite(model.inverse_transform(Z)).all()


@pytest.mark.parametrize("use", ["transform", "score_samples", "score", "reconstruct", "partial_fit", "resume", "fit"])
def test_warnings_about_names_point_to_the_caller(use):
    """Whatever the number of calls between the method and the check."""
    pandas = pytest.importorskip("pandas")
    X = np.random.default_rng(0).standard_normal((30, 3))
    frame = pandas.DataFrame(X, columns=["a", "b", "c"])
    model = npvae.VAE(1, hidden_layer_sizes=(3,), learning_rate=0.05, max_epochs=1, backend="reference").fit(frame)
    call = {"fit": lambda: model.fit(frame, X_valid=X)}.get(use, lambda: getattr(model, use)(X))
    with pytest.warns(UserWarning, match="valid feature names") as record:
        call()
    assert [warning.filename for warning in record] == [__file__]
