"""A server on this machine whose answers are no good."""

import http.server
import threading

__all__ = ["start"]


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/loop":
            self._answer(302, b"", Location="/loop")
        elif self.path == "/to_file":
            self._answer(302, b"", Location="file:///etc/hostname")
        elif self.path == "/broken":
            self._answer(500, b"")
        elif self.path == "/page":
            self._answer(200, b"<html>", **{"Content-Type": "text/html"})
        elif self.path == "/empty":
            self._answer(200, b"")
        elif self.path == "/text":
            self._answer(200, b"hello")
        elif self.path == "/short":
            self._answer(200, b"hello", **{"Content-Length": "9999"})
        else:
            self._answer(404, b"")

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "Content-Type": "text/plain", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def start() -> str:
    """Start the server in a thread that ends with the process; return its address."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"
