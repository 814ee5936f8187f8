"""Downloads from a server of our own: resumed, checked, and extracted with care."""

import hashlib
import http.server
import io
import stat
import sys
import tarfile
import threading
import zipfile
from typing import ClassVar

import pytest

from qact.datasets.archives import extract
from qact.datasets.download import fetch
from qact.datasets.registry import DATASETS, DataSet, Download
from qact.shift import download as download_set

CONTENT = bytes(range(256)) * 4000
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server(http.server.BaseHTTPRequestHandler):
    """Answers /NAME from ``files``; breaks off after ``stop`` bytes; knows ranges or not."""

    files: ClassVar[dict] = {}
    stop = None
    ranges = True
    stall = None  # an event to wait for once those bytes are sent
    asked: ClassVar[list] = []

    def do_GET(self):
        body = self.files.get(self.path.lstrip("/"))
        if body is None:
            return self.send_error(404)
        start = 0
        given = self.headers.get("Range")
        self.asked.append(given)
        if given and self.ranges:
            start = int(given.removeprefix("bytes=").rstrip("-"))
            if start >= len(body):
                return self.send_error(416)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        self.wfile.write(body[start : self.stop])
        if self.stall is not None:
            self.wfile.flush()
            self.stall.wait(60)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    handler = type("Handler", (Server,), {"files": {"a.bin": CONTENT}, "asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        handler.url = f"http://127.0.0.1:{running.server_address[1]}"
        yield handler
        running.shutdown()


def md5(content):
    return hashlib.md5(content).hexdigest()


def test_a_download_arrives_and_is_not_repeated(server, tmp_path):
    seen = []
    path = tmp_path / "deep" / "a.bin"
    fetch(f"{server.url}/a.bin", path, "md5", md5(CONTENT), lambda *a: seen.append(a))
    assert path.read_bytes() == CONTENT
    assert seen[-1] == ("a.bin", len(CONTENT), len(CONTENT))
    assert not (tmp_path / "deep" / "a.bin.part").exists()
    fetch(f"{server.url}/a.bin", path, "md5", md5(CONTENT))
    assert len(server.asked) == 1


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_download_is_resumed(server, tmp_path, ranges):
    path, arguments = tmp_path / "a.bin", (f"{server.url}/a.bin", tmp_path / "a.bin", "md5")
    server.stop = 300_000
    with pytest.raises(ConnectionError, match=r"300000 bytes are kept in a\.bin\.part.*md5"):
        fetch(*arguments, md5(CONTENT))
    assert not path.exists()
    server.stop, server.ranges = None, ranges
    fetch(*arguments, md5(CONTENT))
    assert path.read_bytes() == CONTENT
    assert server.asked == [None, "bytes=300000-"]


def test_a_whole_part_needs_nothing_more(server, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(CONTENT)
    fetch(f"{server.url}/a.bin", tmp_path / "a.bin", "md5", md5(CONTENT))
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_wrong_bytes_are_named_and_not_kept(server, tmp_path):
    path, url = tmp_path / "a.bin", f"{server.url}/a.bin"
    with pytest.raises(
        ValueError, match=rf"a\.bin is truncated or altered: sha256.*expected 00.*{url}"
    ):
        fetch(url, path, "sha256", "00")
    assert list(tmp_path.iterdir()) == []
    path.write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"\(4 bytes\), expected"):
        fetch(url, path, "md5", md5(CONTENT))
    assert path.read_bytes() == b"mine"


def test_no_file_and_no_network(server, tmp_path):
    with pytest.raises(ConnectionError, match="404"):
        fetch(f"{server.url}/b.bin", tmp_path / "b.bin", "md5", "0")
    with pytest.raises(ConnectionError, match="expected md5 0"):
        fetch("http://127.0.0.1:1/b.bin", tmp_path / "b.bin", "md5", "0")


def zipped(**files):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "/"), content)
    return out.getvalue()


def test_a_set_is_extracted_once(server, tmp_path, monkeypatch):
    server.files["set.zip"] = zipped(folder__a="one", folder__sub__b="two")
    item = Download(f"{server.url}/set.zip", "set.zip", "md5", md5(server.files["set.zip"]), ".")
    mine = DataSet("mine", print, "mine", "here", (item,))
    monkeypatch.setitem(DATASETS._entries, "mine", mine)
    assert download_set("mine", tmp_path) == tmp_path
    assert (tmp_path / "folder" / "sub" / "b").read_text() == "two"
    (tmp_path / "folder" / "a").write_text("changed")
    download_set("mine", tmp_path)  # no second extraction
    assert (tmp_path / "folder" / "a").read_text() == "changed"
    assert len(server.asked) == 1
    with pytest.raises(ValueError, match="unknown data set 'cifar-10'; did you mean 'cifar10'"):
        download_set("cifar-10", tmp_path)


def tarred(name, kind=tarfile.REGTYPE, link=""):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        member = tarfile.TarInfo(name)
        member.type, member.linkname, member.size = kind, link, 2 * (kind == tarfile.REGTYPE)
        archive.addfile(member, io.BytesIO(b"ok"))
    return out.getvalue()


@pytest.mark.parametrize("name", ["../out", "/tmp/out", "a/../../out", "..\\out", "C:/out"])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_names_that_lead_out_are_refused(tmp_path, name, kind):
    archive = tmp_path / f"a.{kind}"
    archive.write_bytes(tarred(name) if kind == "tar" else zipped(**{name: "x"}))
    with pytest.raises(ValueError, match="leads out of the folder"):
        extract(archive, tmp_path / "in")
    assert not (tmp_path / "in").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path, kind):
    (tmp_path / "a.tar").write_bytes(tarred("good", kind, "/etc/passwd"))
    with pytest.raises(ValueError, match="'good', which is a link or a device"):
        extract(tmp_path / "a.tar", tmp_path / "in")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        info = zipfile.ZipInfo("good")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    (tmp_path / "a.zip").write_bytes(out.getvalue())
    with pytest.raises(ValueError, match="link or a device"):
        extract(tmp_path / "a.zip", tmp_path / "in")


def test_damaged_and_other_files(tmp_path):
    (tmp_path / "a.tar").write_bytes(tarred("good"))
    extract(tmp_path / "a.tar", tmp_path / "in")
    assert (tmp_path / "in" / "good").read_bytes() == b"ok"
    (tmp_path / "a.zip").write_bytes(b"hello")
    with pytest.raises(ValueError, match=r"neither a \.tar nor a \.zip"):
        extract(tmp_path / "a.zip", tmp_path)
    whole = zipped(a="x" * 1000)
    (tmp_path / "a.zip").write_bytes(whole[:40] + b"zz" + whole[42:])
    with pytest.raises(ValueError, match="is damaged"):
        extract(tmp_path / "a.zip", tmp_path)


def test_every_origin_names_a_checksum():
    for items in (DATASETS[name].downloads for name in DATASETS):
        for item in items:
            assert item.url.startswith("http")
            assert len(item.checksum) == {"md5": 32, "sha256": 64}[item.algorithm]
            assert ".." not in item.file


def test_a_stalled_download_keeps_every_byte_that_came(server, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["qact.datasets.download"], "_TIMEOUT", 2)
    server.stop, server.stall = 300_000, threading.Event()  # less than a piece is
    with pytest.raises(ConnectionError, match=r"300000 bytes are kept in a\.bin\.part"):
        fetch(f"{server.url}/a.bin", tmp_path / "a.bin", "md5", MD5)
    server.stall.set()
    server.stop = server.stall = None
    assert fetch(f"{server.url}/a.bin", tmp_path / "a.bin", "md5", MD5).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=300000-"]


def test_no_network_is_said_in_words(tmp_path):
    with pytest.raises(ConnectionError, match="could not download") as caught:
        fetch("http://127.0.0.1:9/a.bin", tmp_path / "a.bin", "md5", MD5)
    assert "refused" in str(caught.value)
    assert "Errno" not in str(caught.value)
    assert "urlopen" not in str(caught.value)
