import gzip
import hashlib
import http.server
import inspect
import io
import math
import os
import struct
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from npvae import datasets
from npvae.datasets import files, loaders
from npvae.datasets.formats import parse_amat, parse_frey, parse_idx

SHAPE = (3, 4, 5)
IMAGES = np.random.default_rng(0).integers(0, 256, size=SHAPE, dtype=np.uint8)
BITS = IMAGES.reshape(3, 20) % 2


def text_only(value):
    """Names test cases by their texts: bytes would be unreadable, and gzip's hold the time of day."""
    return value if isinstance(value, str) else "content"


@pytest.fixture(autouse=True)
def cache(request, tmp_path, monkeypatch):
    """An empty cache, and no data folder, for every test but those that need the real data."""
    if "real_data" in request.fixturenames:
        return None
    monkeypatch.delenv("NPVAE_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home cache"))
    monkeypatch.setenv("no_proxy", "*")
    return tmp_path / "home cache" / "npvae"


# --- digits ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    return datasets.make_digits(3003, random_state=3)


def test_digits_are_labelled_images(digits):
    X, y = digits
    assert X.shape == (3003, 784) and X.dtype == np.uint8
    assert y.shape == (3003,) and y.dtype == np.uint8


def test_digits_are_balanced_and_shuffled(digits):
    _, y = digits
    counts = np.bincount(y, minlength=10)
    assert len(counts) == 10 and np.ptp(counts) == 1
    # among neighbours in random order, one pair in ten is equal; the bounds are 5 standard deviations off
    assert abs(np.mean(y[1:] == y[:-1]) - 0.1) < 5 * math.sqrt(0.1 * 0.9 / 3002)


def test_the_same_seed_gives_the_same_digits():
    X, y = datasets.make_digits(150, random_state=4)
    X_again, y_again = datasets.make_digits(150, random_state=4)
    np.testing.assert_array_equal(X, X_again)
    np.testing.assert_array_equal(y, y_again)
    X_other, _ = datasets.make_digits(150, random_state=5)
    assert (X_other != X).any(axis=1).all()


def test_a_generator_goes_on_where_it_was():
    rng = np.random.default_rng(4)
    X, _ = datasets.make_digits(30, random_state=rng)
    np.testing.assert_array_equal(X, datasets.make_digits(30, random_state=4)[0])
    assert (datasets.make_digits(30, random_state=rng)[0] != X).any()


def test_no_two_digits_are_alike(digits):
    X, _ = digits
    assert len(np.unique(X, axis=0)) == len(X)


def test_digits_are_white_ink_in_a_centred_box(digits):
    X, _ = digits
    images = X.reshape(-1, 28, 28).astype(float)
    assert (images.max(axis=(1, 2)) >= 200).all()
    assert (images == 0).mean() > 0.6
    rows, columns = (images > 0).any(axis=2), (images > 0).any(axis=1)
    longer = np.maximum(_extent(rows), _extent(columns))
    assert longer.min() >= 17 and longer.max() <= 23
    centre = (images.sum(axis=2) @ np.arange(28) / images.sum(axis=(1, 2))).mean()
    assert abs(centre - 13.5) < 0.5


def _extent(occupied):
    """Distance (n,) from the first to past the last True of each row."""
    return occupied.shape[1] - occupied[:, ::-1].argmax(axis=1) - occupied.argmax(axis=1)


def test_digits_of_a_class_differ_in_shape_and_ink(digits):
    X, y = digits
    for digit in range(10):
        images = X[y == digit] / 255
        # the mean image explains only part of an image: of noisy prototypes it would explain nearly all
        assert images.var(axis=0).sum() > 0.3 * (images**2).sum(axis=1).mean()
        darkness = images.sum(axis=1)
        assert darkness.std() > 0.1 * darkness.mean()


def test_classes_are_distinct_but_no_prototypes(digits):
    X, y = digits
    X, X_test, y_test = X[:2500] / 255.0, X[2500:] / 255.0, y[2500:]
    y = y[:2500]
    means = np.stack([X[y == digit].mean(axis=0) for digit in range(10)])
    assert 0.75 < np.mean(_nearest(X_test, means) == y_test) < 0.97
    assert np.mean(y[_nearest(X_test, X)] == y_test) > 0.95


def _nearest(X, candidates):
    return np.argmin((candidates**2).sum(axis=1) - 2 * X @ candidates.T, axis=1)


def test_no_digits_at_all():
    X, y = datasets.make_digits(0)
    assert X.shape == (0, 784) and y.shape == (0,)
    assert X.dtype == y.dtype == np.uint8


@pytest.mark.parametrize("n, error", [(-1, ValueError), (2.0, TypeError), ("3", TypeError)])
def test_a_wrong_number_of_digits_is_refused(n, error):
    with pytest.raises(error, match=f"n must be .* got {n!r}"):
        datasets.make_digits(n)


def test_numpy_integers_are_numbers_of_digits():
    assert len(datasets.make_digits(np.int64(7))[0]) == 7


def test_the_default_data_set():
    data = datasets.load("digits")
    assert data.name == "digits" and data.image_shape == (28, 28)
    assert [len(X) for X in (data.X_train, data.X_valid, data.X_test)] == [10000, 1000, 1000]
    assert [len(y) for y in (data.y_train, data.y_valid, data.y_test)] == [10000, 1000, 1000]
    assert not (data.X_valid[:, None] == data.X_test[:50]).all(axis=2).any()


# --- formats -----------------------------------------------------------------------------------------------


def idx(array):
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def amat(array):
    return "".join(" ".join(map(str, row)) + "\n" for row in array).encode()


def mat(compress=False, **variables):
    file = io.BytesIO()
    scipy.io.savemat(file, variables, do_compression=compress)
    return file.getvalue()


def test_idx_is_read():
    images = parse_idx(idx(IMAGES), SHAPE)
    np.testing.assert_array_equal(images, IMAGES)
    assert images.dtype == np.uint8 and images.flags.writeable


@pytest.mark.parametrize(
    "content, complaint",
    [
        (b"", "starts with 0x, expected the IDX magic number 0x00000803"),
        (b"\x00\x00\x08\x01" + idx(IMAGES)[4:], "starts with 0x00000801"),
        (b"\x00\x00\x0d\x03" + idx(IMAGES)[4:], "starts with 0x00000d03"),
        (b"<html>", "starts with 0x3c68746d"),
        (idx(IMAGES)[:10], "truncated: 10 bytes, expected 76"),
        (idx(IMAGES)[:-1], "truncated: 75 bytes, expected 76"),
        (idx(IMAGES) + b"\x00", "has more than the 76 bytes"),
        (idx(IMAGES[:2]), r"dimensions \(2, 4, 5\), expected \(3, 4, 5\)"),
        (idx(IMAGES.reshape(3, 5, 4)), r"dimensions \(3, 5, 4\), expected \(3, 4, 5\)"),
    ],
    ids=text_only,
)
def test_damaged_idx_is_refused(content, complaint):
    with pytest.raises(ValueError, match=complaint):
        parse_idx(content, SHAPE)


def test_amat_is_read():
    np.testing.assert_array_equal(parse_amat(amat(BITS), BITS.shape), BITS)


@pytest.mark.parametrize(
    "content, complaint",
    [
        (b"", "truncated: 0 bytes, expected 120"),
        (amat(BITS)[:-1], "truncated: 119 bytes, expected 120"),
        (amat(BITS) + b"\n", "has more than the 120 bytes"),
        (b"2" + amat(BITS)[1:], "values other than the digits 0 and 1"),
        (b" " + amat(BITS)[1:], "values other than the digits 0 and 1"),
        (amat(BITS).replace(b" ", b",", 1), "not 3 lines of 20 digits"),
        (amat(BITS).replace(b"\n", b" ", 1), "not 3 lines of 20 digits"),
        (amat(BITS.reshape(6, 10)), "not 3 lines of 20 digits"),
    ],
    ids=text_only,
)
def test_damaged_amat_is_refused(content, complaint):
    with pytest.raises(ValueError, match=complaint):
        parse_amat(content, BITS.shape)


@pytest.mark.parametrize("compress", [False, True])
def test_frey_is_read_from_columns(compress):
    frames = IMAGES.reshape(3, 20)
    np.testing.assert_array_equal(parse_frey(mat(compress, ff=frames.T), (3, 20)), frames)


@pytest.mark.parametrize(
    "content, complaint",
    [
        (b"", "not a complete MATLAB file"),
        (b"junk" * 100, "not a complete MATLAB file"),
        (mat(ff=IMAGES.reshape(20, 3))[:-20], "not a complete MATLAB file"),
        (mat(True, ff=IMAGES.reshape(20, 3))[:-20], "not a complete MATLAB file"),
        (mat(gg=IMAGES.reshape(20, 3)), "no variable ff"),
        (mat(ff=IMAGES.reshape(3, 20)), r"ff of uint8 \(3, 20\), expected uint8 \(20, 3\)"),
        (mat(ff=IMAGES.reshape(20, 3) / 2), r"ff of float64 \(20, 3\), expected uint8"),
        (mat(ff="text"), "expected uint8"),
        (mat(True, ff=np.zeros((2000, 1000), np.uint8)), "variable of more than 120 bytes"),
    ],
    ids=text_only,
)
def test_damaged_frey_is_refused(content, complaint):
    with pytest.raises(ValueError, match=complaint):
        parse_frey(content, (3, 20))


def test_a_damaged_compressed_variable_is_refused():
    content = bytearray(mat(True, ff=IMAGES.reshape(20, 3)))
    content[136] ^= 0xFF  # the first byte of the compressed stream
    with pytest.raises(ValueError, match="damaged"):
        parse_frey(bytes(content), (3, 20))


# --- files in folders --------------------------------------------------------------------------------------


def source(*urls, array=IMAGES, **changes):
    """A source of the tiny images."""
    sha256 = hashlib.sha256(array.tobytes()).hexdigest()
    return files.Source("tiny", "images", urls, parse_idx, SHAPE, len(idx(array)), sha256)._replace(**changes)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "place, content",
    [
        ("images", idx(IMAGES)),
        ("images.gz", gzip.compress(idx(IMAGES))),
        ("tiny/images", idx(IMAGES)),
        ("tiny/images.gz", gzip.compress(idx(IMAGES))),
        ("images.gz", idx(IMAGES)),  # as browsers that unpack on the way leave it
    ],
    ids=text_only,
)
def test_files_are_found_in_a_folder_or_its_subfolder(tmp_path, place, content):
    path = write(tmp_path / place, content)
    assert files.find(source(), tmp_path) == path
    np.testing.assert_array_equal(files.read(source(), tmp_path), IMAGES)


def test_data_dir_comes_before_the_environment_and_that_before_the_cache(tmp_path, cache, monkeypatch):
    monkeypatch.setenv("NPVAE_DATA", str(tmp_path / "environment"))
    assert files.find(source()) is None
    in_cache = write(cache / "tiny" / "images", idx(IMAGES))
    assert files.find(source()) == in_cache
    in_environment = write(tmp_path / "environment" / "images", idx(IMAGES))
    assert files.find(source()) == in_environment
    in_data_dir = write(tmp_path / "argument" / "images", idx(IMAGES))
    assert files.find(source(), tmp_path / "argument") == in_data_dir


def test_a_data_dir_without_the_file_is_an_error_even_if_the_cache_has_it(tmp_path, cache, server):
    write(cache / "tiny" / "images", idx(IMAGES))
    server.bodies["/images"] = idx(IMAGES)
    with pytest.raises(FileNotFoundError, match=r"'.*elsewhere' does not contain images .*into .*elsewhere.tiny"):
        files.read(source(server.url + "/images"), tmp_path / "elsewhere")
    assert server.requests == []


@pytest.mark.parametrize(
    "content, complaint",
    [
        (idx(IMAGES)[:-1], "truncated"),
        (gzip.compress(idx(IMAGES))[:-9], "truncated"),
        (gzip.compress(idx(IMAGES))[:-8] + bytes(8), "damaged"),
        (b"\x1f\x8bnonsense", "damaged"),
        (gzip.compress(idx(IMAGES))[:10] + bytes([255] * 30), "damaged"),
        (gzip.compress(idx(IMAGES)) + b"more", "damaged"),
        (idx(255 - IMAGES), "differs from the public data: the SHA-256 is [0-9a-f]{64}, expected"),
    ],
    ids=text_only,
)
def test_a_damaged_file_is_refused_by_name(tmp_path, content, complaint):
    path = write(tmp_path / "images", content)
    with pytest.raises(ValueError, match=complaint) as caught:
        files.read(source(), tmp_path)
    assert str(caught.value).startswith(str(path))


def test_inflating_stops_a_byte_past_what_is_expected(tmp_path):
    path = write(tmp_path / "images.gz", gzip.compress(idx(IMAGES) + bytes(10**6)))
    assert len(files._read_bounded(path, len(idx(IMAGES)))) == len(idx(IMAGES)) + 1
    with pytest.raises(ValueError, match="has more than the 76 bytes"):
        files.read(source(), tmp_path)


def test_no_home_folder_is_an_error_only_where_one_is_needed(tmp_path, monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(FileNotFoundError, match="no home folder.* NPVAE_DATA"):
        files.read(source())
    assert datasets.describe()[1].location.startswith("not found: there is no home folder")
    write(tmp_path / "images", idx(IMAGES))
    monkeypatch.setenv("NPVAE_DATA", str(tmp_path))
    np.testing.assert_array_equal(files.read(source()), IMAGES)


def test_the_cache_lies_in_the_home_folder_unless_xdg_says_otherwise(tmp_path, monkeypatch):
    assert files.cache_dir() == tmp_path / "home cache" / "npvae"
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    assert files.cache_dir() == tmp_path / ".cache" / "npvae"


# --- downloads ---------------------------------------------------------------------------------------------


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append(self.path)
        if self.path not in self.server.bodies:
            self.send_error(404)
            return
        body = self.server.bodies[self.path]
        self.send_response(200)
        self.send_header("Content-Length", len(body))
        self.end_headers()
        # the rest of an interrupted answer never comes: the connection closes
        self.wfile.write(body[: len(body) // 2] if self.path in self.server.interrupted else body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.bodies, running.interrupted, running.requests = {}, set(), []
        running.url = f"http://127.0.0.1:{running.server_port}"
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def files_below(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_download_lands_in_the_cache_and_is_not_repeated(server, cache):
    server.bodies["/images.gz"] = gzip.compress(idx(IMAGES))
    tiny = source(server.url + "/images.gz")
    np.testing.assert_array_equal(files.read(tiny), IMAGES)
    assert files_below(cache) == [cache / "tiny" / "images.gz"]
    np.testing.assert_array_equal(files.read(tiny), IMAGES)
    assert server.requests == ["/images.gz"]


def test_the_environment_folder_does_not_prevent_a_download(server, cache, tmp_path, monkeypatch):
    monkeypatch.setenv("NPVAE_DATA", str(tmp_path))
    server.bodies["/images"] = idx(IMAGES)
    np.testing.assert_array_equal(files.read(source(server.url + "/images")), IMAGES)


@pytest.mark.parametrize(
    "body, complaint",
    [
        (gzip.compress(idx(255 - IMAGES)), "differs from the public data"),
        (b"<html>Please log in</html>", "IDX magic number"),
        (bytes(1101), "more than the 76 bytes expected"),
        (b"", "IDX magic number"),
    ],
    ids=text_only,
)
def test_a_wrong_download_leaves_nothing_behind(server, cache, body, complaint):
    server.bodies["/images.gz"] = body
    with pytest.raises(datasets.DownloadError, match=complaint):
        files.read(source(server.url + "/images.gz"))
    assert files_below(cache) == []


@pytest.mark.parametrize("content", [idx(IMAGES), gzip.compress(idx(IMAGES))], ids=["plain", "gzipped"])
def test_an_interrupted_download_leaves_nothing_behind(server, cache, content):
    server.bodies["/images"] = content
    server.interrupted.add("/images")
    with pytest.raises(datasets.DownloadError, match="truncated"):
        files.read(source(server.url + "/images"))
    assert files_below(cache) == []


def test_the_next_address_is_tried(server, cache):
    server.bodies.update({"/wrong/images": idx(255 - IMAGES), "/right/images": idx(IMAGES)})
    urls = [server.url + path for path in ("/absent/images", "/wrong/images", "/right/images")]
    np.testing.assert_array_equal(files.read(source(*urls)), IMAGES)
    assert server.requests == ["/absent/images", "/wrong/images", "/right/images"]
    assert files_below(cache) == [cache / "tiny" / "images"]


def test_a_download_that_trickles_is_given_up(server, cache, monkeypatch):
    monkeypatch.setattr(files, "_DOWNLOAD_SECONDS", -1)
    server.bodies["/images"] = idx(IMAGES)
    with pytest.raises(datasets.DownloadError, match="not complete after"):
        files.read(source(server.url + "/images"))
    assert files_below(cache) == []


def test_the_error_without_a_network_says_what_to_do(server, cache):
    server.shutdown()
    server.server_close()
    urls = [f"{server.url}/{mirror}/images" for mirror in "ab"]
    with pytest.raises(OSError) as caught:
        files.read(source(*urls))
    for part in (*urls, "images is not on this machine", str(cache / "tiny"), "NPVAE_DATA"):
        assert part in str(caught.value)
    assert files_below(cache) == []


def test_a_file_appears_only_verified_and_whole(server, cache, monkeypatch):
    """Before the last step, the file is there under another name, complete and on disk."""
    events = []
    replace, fsync = os.replace, os.fsync

    def spying_replace(part, target):
        assert Path(part).read_bytes() == idx(IMAGES) and not target.exists()
        assert Path(part).parent == target.parent
        events.append("replace")
        replace(part, target)

    monkeypatch.setattr(os, "fsync", lambda descriptor: (events.append("fsync"), fsync(descriptor)))
    monkeypatch.setattr(os, "replace", spying_replace)
    server.bodies["/images"] = idx(IMAGES)
    files.read(source(server.url + "/images"))
    assert events == ["fsync", "replace"]


def test_stopping_a_download_by_hand_leaves_nothing_behind(server, cache, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    server.bodies["/images"] = idx(IMAGES)
    with pytest.raises(KeyboardInterrupt):
        files.read(source(server.url + "/images"))
    assert files_below(cache) == []


def test_a_cache_that_cannot_be_written_is_named(server, cache):
    write(cache, b"a file where the folder should be")
    server.bodies["/images"] = idx(IMAGES)
    with pytest.raises(datasets.DownloadError, match="home cache"):
        files.read(source(server.url + "/images"))


# --- names -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cifar", "MNIST", "", None, ["mnist"]])
def test_an_unknown_name_is_refused_with_the_known_ones(name):
    with pytest.raises(ValueError, match="name is .*; expected one of 'digits', 'mnist', 'frey', 'binarized-mnist'"):
        datasets.load(name)


@pytest.mark.parametrize(
    "name, filename",
    [
        ("mnist", "train-images-idx3-ubyte"),
        ("frey", "frey_rawface.mat"),
        ("binarized-mnist", "binarized_mnist_train.amat"),
    ],
)
def test_loaders_look_in_the_folder_given(tmp_path, name, filename):
    with pytest.raises(FileNotFoundError, match=filename):
        datasets.load(name, tmp_path)


def test_describe_tells_where_data_would_come_from(tmp_path):
    here = {row.name: row.location for row in datasets.describe()}
    assert tuple(here) == datasets.NAMES
    assert here["digits"] == "generated"
    assert here["mnist"] == here["frey"] == "not found: would be downloaded"

    write(tmp_path / "frey_face" / "frey_rawface.mat", b"")
    write(tmp_path / "mnist" / "train-images-idx3-ubyte", b"")  # only one of the four
    there = {row.name: row.location for row in datasets.describe(tmp_path)}
    assert there["frey"] == str(tmp_path / "frey_face")
    assert there["mnist"] == f"not found in {tmp_path}"


def test_addresses_end_in_the_name_that_is_looked_for():
    for entry in loaders._ENTRIES.values():
        for each in entry.sources:
            assert each.urls
            assert {url.rpartition("/")[2].removesuffix(".gz") for url in each.urls} == {each.filename}


def test_importing_data_sets_loads_neither_scipy_nor_matplotlib_nor_the_rest_but_the_checks():
    code = (
        "import sys, types; package = types.ModuleType('npvae'); package.__path__ = sys.argv[1:]\n"
        "sys.modules['npvae'] = package; import npvae.datasets\n"
        "print([n for n in sys.modules if n.split('.')[0] in ('scipy', 'matplotlib')\n"
        "       or n.startswith('npvae.') and not n.startswith('npvae.datasets')])"
    )
    package = Path(inspect.getfile(datasets)).parents[1]
    command = [sys.executable, "-c", code, str(package)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "['npvae.conventions']"


# --- the real files ----------------------------------------------------------------------------------------


@pytest.fixture
def real_data():
    if not os.environ.get("NPVAE_DATA"):
        pytest.skip("needs NPVAE_DATA, the folder of the public data sets")


def test_mnist(real_data):
    data = datasets.load("mnist")
    assert data.X_train.shape == (50000, 784)
    assert data.X_valid.shape == data.X_test.shape == (10000, 784)
    assert data.y_train[:5].tolist() == [5, 0, 4, 1, 9]
    assert [len(y) for y in (data.y_train, data.y_valid, data.y_test)] == [50000, 10000, 10000]
    # a label belongs to its image: most test images are nearest to the mean of their class
    means = np.stack([data.X_train[data.y_train == digit].mean(axis=0) for digit in range(10)])
    for X, y in ((data.X_valid, data.y_valid), (data.X_test, data.y_test)):
        assert np.mean(_nearest(X[:1000].astype(float), means) == y[:1000]) > 0.75


def test_frey_face(real_data):
    data = datasets.load("frey")
    assert data.X_train.shape == (1600, 560) and data.X_test.shape == (365, 560)
    assert data.image_shape == (28, 20)
    assert data.X_valid is data.y_train is data.y_valid is data.y_test is None
    np.testing.assert_array_equal(data.X_train, datasets.load_frey_face().X_train)
    # rows of 20 pixels: neighbours above each other are alike only with the right width
    frames = data.X_train.reshape(-1, 28, 20).astype(float)
    assert np.abs(np.diff(frames, axis=1)).mean() < 0.8 * np.abs(frames[:, :, 5:] - frames[:, :, :-5]).mean()


def test_binarized_mnist(real_data):
    data = datasets.load("binarized-mnist")
    assert data.X_train.shape == (50000, 784)
    assert data.X_valid.shape == data.X_test.shape == (10000, 784)
    assert all(np.unique(X).tolist() == [0, 1] for X in (data.X_train, data.X_valid, data.X_test))
    assert data.y_train is data.y_valid is data.y_test is None


def test_swapped_real_files_are_refused(real_data, tmp_path):
    labels = files.find(loaders._MNIST[1])
    write(tmp_path / "t10k-labels-idx1-ubyte.gz", labels.read_bytes())
    with pytest.raises(ValueError, match="60000"):
        files.read(loaders._MNIST[3], tmp_path)
