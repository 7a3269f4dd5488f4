"""A server under test: the real program with the bundled model, over loopback."""

import http.client
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("MLXF_PROGRAM", str(ROOT / "build/release/mlx-flash"))
MODEL = str(ROOT / "models/classics-moe-4bit")
NAME = "classics-moe-4bit"
TEMPLATE = str(pathlib.Path(__file__).with_name("chat_template.jinja"))


class Server:
    """Starts `mlx-flash serve` on a free port; use as a context manager."""

    def __init__(self, *flags, env=None, template=True, budget="none", model=MODEL, port=0):
        words = [PROGRAM, "serve", "-m", str(model), "--port", str(port), "-t", "2", "--memory-budget", budget, *flags]
        if template:
            words += ["--chat-template", TEMPLATE]
        self.log = tempfile.TemporaryFile()
        self.ended_text = None
        self.process = subprocess.Popen(words, stderr=self.log, stdout=subprocess.DEVNULL,
                                        env={**os.environ, **(env or {})})
        self.port = self._await_port()

    def text(self):
        """What it wrote to stderr so far."""
        return self.ended_text or os.pread(self.log.fileno(), 1 << 20, 0).decode()

    def _await_port(self):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            found = re.search(r"^serving .* at http://[^ ]*:(\d+)$", self.text(), re.MULTILINE)
            if found:
                return int(found.group(1))
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError("the server did not start: " + self.text())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self, wait=60):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(wait)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise
        if not self.log.closed:
            self.ended_text = self.text()
            self.log.close()
        return self.process.returncode

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def raw(self, data):
        """Sends bytes, returns all that comes back until the server closes."""
        with self.connect() as connection:
            connection.sendall(data)
            return read_all(connection)

    def request(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            data = body if body is None or isinstance(body, (bytes, str)) else json.dumps(body)
            connection.request(method, path, data, {"Content-Type": "application/json", **(headers or {})})
            answer = connection.getresponse()
            heads = {}
            for name, value in answer.getheaders():
                heads[name] = f"{heads[name]}, {value}" if name in heads else value
            return answer.status, heads, answer.read()
        finally:
            connection.close()

    def json(self, method, path, body=None, headers=None):
        status, _, data = self.request(method, path, body, headers)
        return status, json.loads(data)

    def events(self, path, body, headers=None):
        """The data of each server-sent event of a streamed answer."""
        status, reply_headers, data = self.request("POST", path, {**body, "stream": True}, headers)
        assert status == 200, data
        assert reply_headers["Content-Type"] == "text/event-stream", reply_headers
        return [block[6:] for block in data.decode().split("\n\n") if block.startswith("data: ")]

    def metric(self, name):
        for line in self.request("GET", "/metrics")[2].decode().splitlines():
            if line.startswith(name + " "):
                return float(line.split()[1])
        raise AssertionError(f"no metric {name}")

    def await_metric(self, name, value, seconds):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.metric(name) == value:
                return True
            time.sleep(0.02)
        return False


def read_all(connection):
    data = b""
    while True:
        try:
            part = connection.recv(65536)
        except ConnectionResetError:
            return data
        if not part:
            return data
        data += part


def read_until(connection, end, seconds=60):
    connection.settimeout(seconds)
    data = b""
    while end not in data:
        part = connection.recv(65536)
        if not part:
            break
        data += part
    return data


def post(path, body, *headers):
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n"
    return (head + "".join(h + "\r\n" for h in headers) + "\r\n").encode() + data


def in_threads(work, count):
    """Runs work(0) ... work(count - 1) at once; their results in order."""
    results = [None] * count

    def run(index):
        results[index] = work(index)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
