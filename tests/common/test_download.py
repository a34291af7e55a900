"""Downloads against a server of our own on 127.0.0.1 that can break, stall, lie and ignore what it is asked."""

import hashlib
import http.server
import logging
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from slim_distill.common.download import fetch
from slim_distill.common.errors import WeightsError
from slim_distill.common.weights import read_weights
from tests.common.weight_files import raw_record, zip_file

DATA = bytes(range(256)) * 4096
SHA = hashlib.sha256(DATA).hexdigest()


class Server:
    """What the server does (set by the tests) and what it was asked."""

    def __init__(self):
        self.files = {"/net.bin": DATA}
        self.break_after: list[int] = []
        self.ignore_range = False
        self.stall_after: int | None = None
        self.extra_length = 0
        self.chunked = False
        self.etag = '"v1"'
        self.content_type = "application/octet-stream"
        self.status: list[int] = []
        self.redirect: str | None = None
        self.range_start_shift = 0
        self.delay_s = 0.0
        self.drips = 0
        self.asked: list[tuple[str, str | None]] = []
        self.released = threading.Event()
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                server.answer(self)

            def log_message(self, *_):
                pass

        class Quiet(http.server.ThreadingHTTPServer):
            def handle_error(self, request, client_address):
                """Clients that hang up are what is tested here."""

        self.http = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def close(self):
        self.released.set()
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()

    def answer(self, request):
        wanted = request.headers.get("Range")
        self.asked.append((request.path, wanted))
        if request.path not in self.files:
            return request.send_error(404)
        if self.status:
            return request.send_error(self.status.pop(0))
        if self.redirect is not None:
            request.send_response(302)
            request.send_header("Location", self.redirect)
            return request.end_headers()
        data, start = self.files[request.path], 0
        if wanted and not self.ignore_range and request.headers.get("If-Range") == self.etag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-")) + self.range_start_shift
            if start >= len(data):
                return request.send_error(416)
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            request.send_response(200)
        body = data[start:]
        request.send_header("Content-Type", self.content_type)
        request.send_header("ETag", self.etag)
        if not self.chunked:
            request.send_header("Content-Length", str(len(body) + self.extra_length))
        request.end_headers()
        time.sleep(self.delay_s)
        for _ in range(self.drips):
            time.sleep(0.02)
            request.wfile.write(b"x")
        if self.stall_after is not None:
            request.wfile.write(body[: self.stall_after])
            request.wfile.flush()
            self.released.wait(20)
            return None
        request.wfile.write(body[: self.break_after.pop(0)] if self.break_after else body)
        request.close_connection = True
        return None


@pytest.fixture
def server():
    served = Server()
    yield served
    served.close()


def test_a_download_is_complete_shows_progress_and_is_made_once(server, tmp_path, capfd):
    path = fetch(f"{server.url}/net.bin", tmp_path)
    assert path.read_bytes() == DATA
    assert path.parent == tmp_path
    assert re.search(r"net\.bin: +100%.*1\.05M/1\.05M", capfd.readouterr().err)
    again = fetch(f"{server.url}/net.bin", tmp_path)
    assert again == path
    assert server.asked == [("/net.bin", None), ("/net.bin.sha256", None)]


def test_files_of_one_name_at_two_addresses_do_not_mix(server, tmp_path):
    server.files["/other/net.bin"] = b"other"
    assert fetch(f"{server.url}/net.bin", tmp_path) != fetch(f"{server.url}/other/net.bin", tmp_path)
    assert fetch(f"{server.url}/other/net.bin", tmp_path).read_bytes() == b"other"


def test_a_broken_download_goes_on_where_it_stopped(server, tmp_path):
    server.break_after = [300_000, 400_000]
    assert fetch(f"{server.url}/net.bin#sha256={SHA}", tmp_path).read_bytes() == DATA
    assert [wanted for _, wanted in server.asked] == [None, "bytes=300000-", "bytes=700000-"]


def test_a_server_that_ignores_ranges_gets_a_fresh_start(server, tmp_path):
    server.break_after, server.ignore_range = [300_000], True
    assert fetch(f"{server.url}/net.bin", tmp_path).read_bytes() == DATA


def test_a_later_run_goes_on_and_notices_when_the_file_changed(server, tmp_path):
    server.break_after = [200_000, 1, 1, 1]
    with pytest.raises(
        WeightsError, match=r"gave up after 4 attempts: the connection ended after .* bytes are kept, run again"
    ):
        fetch(f"{server.url}/net.bin", tmp_path)
    server.asked.clear()
    server.files["/net.bin"], server.etag = DATA[::-1], '"v2"'
    assert fetch(f"{server.url}/net.bin", tmp_path).read_bytes() == DATA[::-1]
    assert server.asked[0] == ("/net.bin", "bytes=200003-")
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".bin", ".lock", ".sha256"]


def test_a_server_that_continues_another_part_gets_a_fresh_start(server, tmp_path):
    server.break_after, server.range_start_shift = [300_000], 5
    assert fetch(f"{server.url}/net.bin#sha256={SHA}", tmp_path).read_bytes() == DATA
    assert [wanted for _, wanted in server.asked] == [None, "bytes=300000-", None]


def test_a_part_longer_than_the_file_gets_a_fresh_start(server, tmp_path):
    server.break_after = [300_000, 1, 1, 1]
    with pytest.raises(WeightsError, match="gave up"):
        fetch(f"{server.url}/net.bin", tmp_path)
    server.files["/net.bin"] = b"short now"
    assert fetch(f"{server.url}/net.bin", tmp_path).read_bytes() == b"short now"


def test_a_download_without_a_length_works(server, tmp_path):
    server.chunked = True
    assert fetch(f"{server.url}/net.bin", tmp_path, sha256=SHA.upper()).read_bytes() == DATA


def test_a_busy_server_is_asked_again(server, tmp_path):
    server.status = [503, 429]
    assert fetch(f"{server.url}/net.bin", tmp_path, sha256=SHA).read_bytes() == DATA


def test_a_missing_file_says_404_at_once(server, tmp_path):
    with pytest.raises(WeightsError, match=r"/gone\.tar: the server answered 404 Not Found"):
        fetch(f"{server.url}/gone.tar", tmp_path)
    assert len(server.asked) == 1


def test_a_page_instead_of_a_file_is_refused(server, tmp_path):
    server.content_type = "text/html; charset=utf-8"
    with pytest.raises(WeightsError, match="answered with a web page"):
        fetch(f"{server.url}/net.bin", tmp_path)


def test_silence_times_out_and_what_came_is_kept(server, tmp_path):
    server.stall_after = 100_000
    started = time.monotonic()
    with pytest.raises(WeightsError, match=r"timed out: .* silent for 1 s; 100000 bytes are kept, run again"):
        fetch(f"{server.url}/net.bin", tmp_path, timeout_s=1.0)
    assert time.monotonic() - started < 15
    server.stall_after = None
    assert fetch(f"{server.url}/net.bin", tmp_path, sha256=SHA).read_bytes() == DATA


def test_a_server_that_never_answers_times_out(server, tmp_path):
    server.delay_s = 2.0
    server.stall_after = 0
    with pytest.raises(WeightsError, match=r"timed out: .*; nothing has come"):
        fetch(f"{server.url}/net.bin", tmp_path, timeout_s=0.3)


def test_a_server_that_only_drips_times_out(server, tmp_path):
    server.drips = 150
    with pytest.raises(WeightsError, match=r"timed out: .* silent for 1 s; \d+ bytes are kept"):
        fetch(f"{server.url}/net.bin", tmp_path, timeout_s=1.0)


def test_no_server_is_an_error_at_once(server, tmp_path):
    server.close()
    with pytest.raises(WeightsError, match="no connection: .*refused"):
        fetch(f"{server.url}/net.bin", tmp_path)


def test_a_size_that_does_not_match_is_refused(server, tmp_path):
    server.extra_length = 10
    with pytest.raises(WeightsError, match="the connection ended after 1048576 of 1048586 bytes"):
        fetch(f"{server.url}/net.bin", tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".bin"]


@pytest.mark.parametrize("how", ["fragment", "argument", "beside"])
def test_a_checksum_that_does_not_match_is_refused_and_nothing_kept(server, tmp_path, how):
    wrong = "0" * 64
    server.files["/net.bin.sha256"] = f"{wrong}  net.bin\n".encode() if how == "beside" else SHA.encode()
    url = f"{server.url}/net.bin" + (f"#sha256={wrong}" if how == "fragment" else "")
    with pytest.raises(WeightsError, match=rf"SHA-256 of what came is {SHA}, must be {wrong}; nothing of it is kept"):
        fetch(url, tmp_path, sha256=wrong if how == "argument" else None)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_a_damaged_cached_file_is_fetched_again(server, tmp_path, caplog):
    path = fetch(f"{server.url}/net.bin", tmp_path)
    path.write_bytes(DATA[:-1] + b"?")
    with caplog.at_level(logging.WARNING, "slim_distill"):
        assert fetch(f"{server.url}/net.bin", tmp_path).read_bytes() == DATA
    assert "the cached copy is not used" in caplog.text


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://host/a.tar", "known are http://, https:// and file:// addresses"),
        ("http:///a.tar", "known are http://"),
        ("http://127.0.0.1/a#sha256=12", "must be one SHA-256 of 64 hexadecimal digits"),
        ("http://127.0.0.1/a#md5=12", "unknown fragment #md5=12; known: #sha256=HEX"),
        ("file://elsewhere/a", "a file URL of another machine"),
    ],
)
def test_addresses_that_cannot_be_fetched_say_why(tmp_path, url, message):
    with pytest.raises(WeightsError, match=message):
        fetch(url, tmp_path)


def test_two_different_checksums_are_refused(tmp_path):
    with pytest.raises(WeightsError, match="must be one SHA-256"):
        fetch(f"http://127.0.0.1/a#sha256={SHA}", tmp_path, sha256="0" * 64)


def test_a_redirect_is_followed_but_not_to_a_local_file(server, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    server.redirect = secret.as_uri()
    with pytest.raises(WeightsError, match="302"):
        fetch(f"{server.url}/net.bin", tmp_path / "cache")


def test_file_urls_are_used_where_they_are(tmp_path):
    path = tmp_path / "net work.bin"
    path.write_bytes(DATA)
    assert fetch(path.as_uri(), tmp_path / "cache", sha256=SHA) == path
    assert not (tmp_path / "cache").exists()
    with pytest.raises(WeightsError, match="its SHA-256 is"):
        fetch(f"{path.as_uri()}#sha256={'0' * 64}")
    with pytest.raises(WeightsError, match="no such file"):
        read_weights((tmp_path / "gone").as_uri())


def test_two_processes_make_one_download(server, tmp_path):
    server.delay_s = 0.5
    code = "import sys; from slim_distill.common.download import fetch; print(fetch(sys.argv[1], sys.argv[2]))"
    command = [sys.executable, "-c", code, f"{server.url}/net.bin#sha256={SHA}", str(tmp_path)]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) for _ in range(3)]
    paths = {run.communicate()[0].strip() for run in runs}
    assert all(run.returncode == 0 for run in runs)
    assert len(paths) == 1
    assert Path(paths.pop()).read_bytes() == DATA
    assert [path for path, _ in server.asked] == ["/net.bin"]


def test_weights_are_read_straight_from_a_url(server, tmp_path):
    server.files["/zoo/net.zip"] = zip_file([("net/w", raw_record())])
    arrays = read_weights(f"{server.url}/zoo/net.zip", cache_dir=tmp_path)
    assert {name: array.tolist() for name, array in arrays.items()} == {"w": [0.0, 0.0]}


def test_a_cache_that_cannot_be_written_is_explained(server, tmp_path):
    (tmp_path / "cache").write_bytes(b"a file")
    with pytest.raises(WeightsError, match=r"cannot lock .*: (Not a directory|File exists)"):
        fetch(f"{server.url}/net.bin", tmp_path / "cache")
