"""A server like Hugging Face's, as far as pulling goes, for tests: on loopback, with faults to order."""

import hashlib
import http.server
import json
import threading

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubServer:
    """Serves `files` (name: bytes) of ORG/NAME; names in `large` come as LFS files, by a redirect to `cdn`."""

    def __init__(self, files, large=(), cdn=None):
        self.files = dict(files)
        self.large = set(large)
        self.cdn = cdn
        self.requests = []  # (path, headers) of each.
        self.fail_first = {}  # path part: how often it gets 503 first.
        self.cut_first = {}  # file name: bytes after which the first reply breaks off.
        self.stop_after = {}  # file name: bytes after which a reply stalls until release() is called.
        self.listed = None  # Replaces the siblings.
        self.status = None  # For every request.
        self.ignore_range = False
        self.shift_range = 0
        self.stalled = threading.Event()
        self.released = threading.Event()
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                server.answer(self)

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            def handle_error(self, *_):
                """Clients that leave are part of the tests."""

        self.http = Server(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.05,))
        self.thread.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.http.server_port}"

    def close(self):
        self.released.set()
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()

    def siblings(self):
        for name, data in self.files.items():
            entry = {"rfilename": name, "size": len(data)}
            entry["blobId"] = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            if name in self.large:
                entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
            yield entry

    def answer(self, request):
        self.requests.append((request.path, dict(request.headers)))
        for part, times in self.fail_first.items():
            if part in request.path and times > 0:
                self.fail_first[part] -= 1
                return self.reply(request, 503, b"busy")
        if self.status:
            return self.reply(request, self.status, b"no")
        if request.path.startswith("/api/models/org/name/revision/"):
            listed = self.listed if self.listed is not None else list(self.siblings())
            return self.reply(request, 200, json.dumps({"id": "org/name", "sha": COMMIT, "siblings": listed}).encode())
        for start in (f"/org/name/resolve/{COMMIT}/", "/cdn/"):
            name = request.path[len(start):]
            if request.path.startswith(start) and name in self.files:
                if self.cdn and name in self.large and start != "/cdn/":
                    return self.reply(request, 302, b"", {"Location": f"{self.cdn.url}/cdn/{name}"})
                return self.send_file(request, name)
        return self.reply(request, 404, b"nothing here")

    def reply(self, request, status, body, headers=()):
        request.send_response(status)
        for key, value in dict(headers).items():
            request.send_header(key, value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    def send_file(self, request, name):
        data, begin = self.files[name], 0
        asked = request.headers.get("Range")
        if asked and not self.ignore_range:
            begin = int(asked[len("bytes="):].rstrip("-"))
            if begin >= len(data):
                return self.reply(request, 416, b"")
            begin -= self.shift_range
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        else:
            request.send_response(200)
        body = data[begin:]
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        cut = self.cut_first.pop(name, None)
        stop = self.stop_after.pop(name, None)
        if cut is not None:
            request.wfile.write(body[:cut])
            request.wfile.flush()
            request.close_connection = True
        elif stop is not None:
            request.wfile.write(body[:stop])
            request.wfile.flush()
            self.stalled.set()
            self.released.wait(60)
            request.close_connection = True
        else:
            request.wfile.write(body)
