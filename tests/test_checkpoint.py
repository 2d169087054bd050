"""Model files: what is saved comes back, whole or not at all, and nothing else is taken for one."""

import json
import pickle

import numpy as np
import pytest

import npvae
from npvae import checkpoint


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
    monkeypatch.setattr(checkpoint.os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        model.save(path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


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
        _, arrays = checkpoint.load(path)
        text = json.dumps({"format": checkpoint.FORMAT, "version": checkpoint.VERSION, **changes})
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


def test_flipped_bits_are_refused_or_do_no_harm(model, X, tmp_path, rng):
    path = tmp_path / "model.npz"
    model.save(path)
    whole, expected, refused = path.read_bytes(), model.score_samples(X), 0
    for _ in range(200):
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            np.testing.assert_array_equal(npvae.load(path).score_samples(X), expected)
        except ValueError as error:
            assert "model.npz" in str(error)
            refused += 1
    assert refused > 100


def test_later_versions_and_wrong_sizes_are_refused(model, tmp_path):
    path = tmp_path / "model.npz"
    model.save(path)
    header, arrays = checkpoint.load(path)
    checkpoint.save(path, header, arrays | {"parameters": arrays["parameters"][:-1]})
    with pytest.raises(ValueError, match="damaged: parameters is float32"):
        npvae.load(path)
    checkpoint.save(path, header | {"version": 3}, arrays)
    with pytest.raises(ValueError, match="has format version 3; this npvae reads version 2"):
        npvae.load(path)
