"""What the server promises under clients that leave, wait, or are slow, under a disk that hangs, and at its end.

Numbers are those of a usual test run. MLXF_LONG=1 takes the large ones (minutes) and prints what was measured.
"""

import json
import os
import pathlib
import re
import resource
import select
import signal
import socket
import tempfile
import threading
import time
import unittest

from serving import ROOT, Server, in_threads, post, read_all, read_until
from protocol_test import LONG, SHORT, anonymous_kib, open_files, statuses

LONG_RUN = bool(os.environ.get("MLXF_LONG"))
STUCK_DISK = os.environ.get("MLXF_STUCK_DISK_LIBRARY", str(ROOT / "build/release/tests/server/libstuck_disk.so"))
RESET = b"\x01\x00\x00\x00\x00\x00\x00\x00"  # SO_LINGER: a reset in place of an end.
HELLO = [{"role": "user", "content": "Hello"}]
TOOL = {"type": "function", "function": {"name": "look", "parameters": {
    "type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]}}}


def say(text):
    if LONG_RUN:
        print(text, flush=True)


def percentile(values, part):
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


def many_files():
    """As many descriptors as this process may have; how many clients that allows."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard - 200


def open_sockets(process):
    """What a process has open, connections with their addresses, states and queues."""
    found = []
    tables = [pathlib.Path(f"/proc/{process.pid}/net/{name}") for name in ("tcp", "tcp6")]
    connections = [line.split() for table in tables if table.exists() for line in table.read_text().splitlines()]
    for number in os.listdir(f"/proc/{process.pid}/fd"):
        try:
            target = os.readlink(f"/proc/{process.pid}/fd/{number}")
        except OSError:
            continue  # It was closed just now.
        inode = re.fullmatch(r"socket:\[(\d+)\]", target)
        own = [fields[1:5] for fields in connections if inode and inode[1] in fields]
        found.append(f"{number} {target} {' '.join(own[0]) if own else ''}".rstrip())
    return found


class Leaving(unittest.TestCase):
    """Clients that leave at any moment, in any way, leave nothing behind."""

    COUNT = 1000 if LONG_RUN else 100
    STREAM = {**LONG, "stream": True}
    # What is sent, and what is read before the client leaves.
    MOMENTS = [
        (b"", None),
        (b"POST /v1/comp", None),
        (post("/v1/completions", LONG)[:-20], None),
        (post("/v1/completions", STREAM), None),
        (post("/v1/completions", STREAM), b"\r\n\r\n"),
        (post("/v1/completions", STREAM), b"data: "),
        (post("/v1/completions", {**STREAM, "prompt": "The sea was calm. " * 60}), b"\r\n\r\n"),
        (post("/v1/completions", LONG), None),
        (post("/v1/completions", {**SHORT, "stream": True}), b"[DONE]"),
        (post("/v1/chat/completions", {"messages": HELLO, "stream": True, "max_tokens": 400, "logprobs": True,
                                       "top_logprobs": 20}), b"data: "),
        (post("/v1/responses", {"input": "Hello", "stream": True, "max_output_tokens": 400}), b"output_text.delta"),
        (post("/v1/messages", {"messages": HELLO, "stream": True, "max_tokens": 400}), b"content_block_delta"),
        (post("/api/generate", {"model": "local", "prompt": "Hello", "options": {"num_predict": 400}}), b"response"),
        (post("/v1/embeddings", {"input": ["The sea was calm. " * 30] * 8}), None),
        (post("/v1/completions", {**STREAM, "grammar": 'root ::= [a-z ]*'}), b"data: "),
    ]

    def test_nothing_stays_behind(self):
        with Server("--preload", "--parallel", "4", "--queue", "2000", "--max-context", "4096") as server:
            self.assertEqual(server.json("POST", "/v1/completions", SHORT)[0], 200)
            files = memory = None
            slowest = 0
            for index in range(self.COUNT):
                if index == len(self.MOMENTS) * 3:  # Each has been once in each way: what is kept for all is there.
                    self.await_nothing(server)
                    files, memory = open_files(server.process), anonymous_kib(server.process)
                data, wait = self.MOMENTS[index % len(self.MOMENTS)]
                connection = server.connect()
                connection.sendall(data)
                if wait is not None:
                    self.assertIn(wait, read_until(connection, wait))
                if index // len(self.MOMENTS) % 3 == 1:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                if index // len(self.MOMENTS) % 3 == 2:
                    connection.shutdown(socket.SHUT_WR)
                connection.close()
                if index % 100 == 99:
                    slowest = max(slowest, self.await_nothing(server))
            slowest = max(slowest, self.await_nothing(server))
            ended = self.await_files(server.process, files)
            grown = anonymous_kib(server.process) - memory
            say(f"{self.COUNT} left: their connections ended after {ended:.3f} s, {grown} KiB more, "
                f"{slowest:.3f} s until the last slot was free")
            self.assertLess(grown, 16 << 10, "KiB")
            self.assertEqual(server.json("POST", "/v1/completions", SHORT)[0], 200)

    def await_files(self, process, files):
        """Until no more than `files` are open, and how long that took; says what lingers."""
        started = time.monotonic()
        told = False
        while (count := open_files(process)) > files:
            waited = time.monotonic() - started
            if waited > 5 and not told:
                say(f"{count} descriptors are open, not {files}: {open_sockets(process)}")
                told = True
            self.assertLess(waited, 20, f"{count} descriptors are open, not {files}: {open_sockets(process)}")
            time.sleep(0.02)
        return time.monotonic() - started

    def await_nothing(self, server):
        """Until nothing waits, runs or is held, and how long that took."""
        started = time.monotonic()
        # What was sent last may be read only now, so the sequences' memory is what ends last.
        for name in ("requests_waiting", "requests_running", "kv_bytes"):
            self.assertTrue(server.await_metric(f"mlx_flash_{name}", 0, 20), name)
        return time.monotonic() - started

    def test_the_place_is_free_at_once(self):
        waits = []
        with Server("--preload", "--parallel", "1") as server:
            for _ in range(100 if LONG_RUN else 12):
                with server.connect() as connection:
                    connection.sendall(post("/v1/completions", self.STREAM))
                    read_until(connection, b"data: ")
                left = time.monotonic()
                self.assertEqual(server.json("POST", "/v1/completions", SHORT)[0], 200)
                waits.append(time.monotonic() - left)
        say(f"answered after the one before left: {percentile(waits, .5):.3f} s, at most {max(waits):.3f} s")
        self.assertLess(percentile(waits, 0.75), 1)


class Waiting(unittest.TestCase):
    """Many that wait, and many that never ask."""

    @classmethod
    def setUpClass(cls):
        cls.room = many_files()
        cls.server = Server("--preload", "--parallel", "8", "--queue", "2000", "--max-context", "4096")

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def health_times(self, count):
        times = []
        for _ in range(count):
            started = time.monotonic()
            self.assertEqual(self.server.json("GET", "/health")[0], 200)
            times.append(time.monotonic() - started)
        return times

    def tokens_per_second(self, seconds):
        before, started = self.server.metric("mlx_flash_tokens_generated_total"), time.monotonic()
        time.sleep(seconds)
        return (self.server.metric("mlx_flash_tokens_generated_total") - before) / (time.monotonic() - started)

    def eight_that_run(self):
        """Long answers in all places, and the threads that read them."""
        busy = [self.server.connect() for _ in range(8)]
        for connection in busy:
            connection.sendall(post("/v1/completions", {**LONG, "max_tokens": 4000, "stream": True}))
            read_until(connection, b"data: ")
        drained = [threading.Thread(target=read_all, args=(connection,)) for connection in busy]
        for thread in drained:
            thread.start()
        return busy, drained

    def test_a_thousand_streams_are_cheap_and_hear_that_they_live(self):
        count = min(1000, self.room)
        busy, drained = self.eight_that_run()
        running = anonymous_kib(self.server.process)
        waiting = []
        for _ in range(count):
            waiting.append(self.server.connect())
            waiting[-1].sendall(post("/v1/completions", {**SHORT, "stream": True}))
        for connection in waiting:
            self.assertIn(b"200 OK", read_until(connection, b"\r\n\r\n"))
        started = time.monotonic()
        self.assertGreaterEqual(self.server.metric("mlx_flash_requests_waiting"), count)
        grown = anonymous_kib(self.server.process) - running
        times = self.health_times(500 if LONG_RUN else 100)
        for connection in waiting:
            read_until(connection, b": \n\n", 30)
        heard = time.monotonic() - started
        say(f"{count} streams: {grown / count:.1f} KiB each; /health p50 {percentile(times, .5) * 1e3:.1f} ms, "
            f"p99 {percentile(times, .99) * 1e3:.1f} ms; all heard within {heard:.1f} s")
        self.assertLess(grown / count, 64, f"KiB per stream; {running} before")
        self.assertLess(heard, 10 if not LONG_RUN else 20)
        self.assertLess(percentile(times, 0.9), 0.05)
        for connection in busy:
            connection.shutdown(socket.SHUT_RDWR)
        for thread in drained:
            thread.join()
        self.assertIn(b"[DONE]", read_until(waiting[-1], b"[DONE]"))
        for connection in busy + waiting:
            connection.close()
        self.assertTrue(self.server.await_metric("mlx_flash_requests_running", 0, 30))

    @unittest.skipUnless(LONG_RUN, "a measurement: MLXF_LONG=1")
    def test_a_thousand_that_wait_cost_those_that_run_nothing(self):
        """Answers get slower as they get longer: alone before and after, and beside those that wait between."""
        count, seconds = min(1000, self.room), 1.5
        busy, drained = self.eight_that_run()
        before = self.tokens_per_second(seconds)
        waiting = [self.server.connect() for _ in range(count)]
        for connection in waiting:
            connection.sendall(post("/v1/completions", {**SHORT, "stream": True}))
        for connection in waiting:
            self.assertIn(b"200 OK", read_until(connection, b"\r\n\r\n"))
        beside = self.tokens_per_second(seconds)
        for connection in waiting:
            connection.close()
        self.assertTrue(self.server.await_metric("mlx_flash_requests_waiting", 0, 10))
        after = self.tokens_per_second(seconds)
        self.assertEqual(self.server.metric("mlx_flash_requests_running"), 8, "some ended: the time was too long")
        share = beside * (1 / before + 1 / after) / 2
        say(f"tokens/s of eight streams: {before:.0f} alone, {beside:.0f} beside {count}, {after:.0f} alone again: "
            f"{share:.3f} of those alone")
        for connection in busy:
            connection.shutdown(socket.SHUT_RDWR)
        for thread in drained:
            thread.join()
        for connection in busy:
            connection.close()
        self.assertTrue(self.server.await_metric("mlx_flash_requests_running", 0, 30))
        self.assertGreater(share, 0.9)

    def test_who_never_asks_is_dropped(self):
        count = min(2000, self.room)
        baseline = self.health_times(100)
        files = open_files(self.server.process)
        # Silent ones, ones that send a head byte by byte, ones that send empty lines, and ones that ask once.
        pieces = [[b""], [bytes([byte]) for byte in b"GET /livez HTTP/1.1"], [b"\r\n"] * 19]
        poll = select.poll()
        slow = {}
        for index in range(count):
            connection = self.server.connect()
            connection.setblocking(False)
            slow[connection.fileno()] = (connection, time.monotonic(), list(pieces[index % 3]))
            poll.register(connection, select.POLLIN | select.POLLRDHUP)
        opened = time.monotonic()
        times, lives, answers = [], [], set()
        while slow and time.monotonic() - opened < 30:
            for descriptor, _ in poll.poll(100):
                connection, began, _ = slow[descriptor]
                try:
                    answers.update(statuses(connection.recv(4096)))
                    ended = connection.recv(1, socket.MSG_PEEK) == b""
                except BlockingIOError:
                    continue
                except OSError:
                    ended = True
                if ended:
                    lives.append(time.monotonic() - began)
                    poll.unregister(descriptor)
                    connection.close()
                    del slow[descriptor]
            if time.monotonic() - opened < 8:
                times += self.health_times(5)
            for connection, began, rest in slow.values():
                if rest and time.monotonic() - began > 2 * (len(pieces[1]) - len(rest)):
                    try:
                        connection.send(rest.pop(0) or b"")
                    except OSError:
                        pass  # It was dropped meanwhile, as the next poll says.
        say(f"{count} that never ask: dropped after {min(lives):.1f} to {max(lives):.1f} s; /health p50 "
            f"{percentile(times, .5) * 1e3:.1f} ms, p99 {percentile(times, .99) * 1e3:.1f} ms, without them "
            f"{percentile(baseline, .5) * 1e3:.1f} and {percentile(baseline, .99) * 1e3:.1f} ms")
        self.assertEqual(len(slow), 0, "are still there")
        self.assertEqual(answers, {408}, "to those who began")
        self.assertLess(percentile(lives, 0.99), 13)
        self.assertLess(percentile(times, 0.5), max(2 * percentile(baseline, 0.5), 0.02))
        deadline = time.monotonic() + 10
        while open_files(self.server.process) > files and time.monotonic() < deadline:
            time.sleep(0.02)
        self.assertLessEqual(open_files(self.server.process), files)


class SlowReaders(unittest.TestCase):
    BODY = {**LONG, "max_tokens": 1500, "logprobs": 20, "stream": True}

    def test_little_is_held_for_them_and_nothing_is_lost(self):
        with Server("--preload", "--parallel", "2", "--max-context", "4096") as server:
            with server.connect() as connection:
                connection.sendall(post("/v1/completions", self.BODY))
                whole = read_until(connection, b"[DONE]")
            events = [block for block in self.bodies(whole).split(b"\n\n") if block.startswith(b"data: {")]
            before, memory = server.metric("mlx_flash_tokens_generated_total"), anonymous_kib(server.process)
            slow = socket.socket()
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect(("127.0.0.1", server.port))
            slow.sendall(post("/v1/completions", self.BODY))
            tokens, quiet = -1, 0
            while quiet < 10:
                time.sleep(0.05)
                now = server.metric("mlx_flash_tokens_generated_total") - before
                quiet, tokens = (quiet + 1 if now == tokens and now > 0 else 0), now
            waits = self.unsent(server, slow)
            grown = anonymous_kib(server.process) - memory
            # Whatever was generated but for the events that the scheduler holds is text that waits or has arrived.
            arrived = len(slow.recv(1 << 20, socket.MSG_PEEK))
            text = sum(len(event) + 2 for event in events[:max(0, int(tokens) - 256)])
            say(f"slow reader: {tokens:.0f} tokens generated, {arrived} bytes arrived, {waits} in the system, "
                f"{text - arrived} buffered in all, {grown} KiB of memory more")
            self.assertLess(tokens, len(events), "it was stopped")
            self.assertLessEqual(text - arrived, 256 << 10)
            self.assertLessEqual(waits, 160 << 10)
            self.assertLess(grown, 4 << 10)
            started = time.monotonic()
            self.assertEqual(server.json("POST", "/v1/completions", SHORT)[0], 200, "others go on")
            self.assertLess(time.monotonic() - started, 5)
            self.assertEqual(self.texts(read_until(slow, b"[DONE]")), self.texts(whole))
            slow.close()

    @unittest.skipUnless(LONG_RUN, "a minute")
    def test_who_takes_nothing_for_a_minute_is_cut_off(self):
        with Server("--preload", "--max-context", "4096") as server:
            with server.connect() as deaf:
                deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                deaf.sendall(post("/v1/completions", self.BODY))
                started = time.monotonic()
                self.assertTrue(server.await_metric("mlx_flash_requests_running", 1, 10))
                self.assertTrue(server.await_metric("mlx_flash_requests_running", 0, 90))
                say(f"a reader that takes nothing was cut off after {time.monotonic() - started:.1f} s")

    @staticmethod
    def bodies(data):
        """What the chunks of an answer hold."""
        rest, out = data.split(b"\r\n\r\n", 1)[1], b""
        while b"\r\n" in rest:
            size, rest = rest.split(b"\r\n", 1)
            out, rest = out + rest[:int(size, 16)], rest[int(size, 16) + 2:]
        return out

    def texts(self, data):
        return [json.loads(block[6:])["choices"][0]["text"] for block in self.bodies(data).decode().split("\n\n")
                if block.startswith("data: {")]

    @staticmethod
    def unsent(server, connection):
        """Bytes that the server gave to the system and that have not arrived."""
        ours = f"{connection.getsockname()[1]:04X}"
        for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[1].endswith(f":{server.port:04X}") and fields[2].endswith(":" + ours):
                return int(fields[4].split(":")[0], 16)
        raise AssertionError("no such connection")


class StuckDisk(unittest.TestCase):
    """A model that is streamed from a disk that hangs, or fails."""

    SECONDS = 61 if LONG_RUN else 6  # Longer than the pause between two heartbeats.
    STREAMS = [
        ("/v1/completions", {**LONG, "max_tokens": 40}),
        ("/v1/chat/completions", {"messages": HELLO, "max_tokens": 40, "seed": 1}),
        ("/v1/responses", {"input": "Hello", "max_output_tokens": 40, "seed": 1}),
        ("/v1/messages", {"messages": HELLO, "max_tokens": 40, "top_k": 1}),
        ("/api/chat", {"model": "local", "messages": HELLO, "options": {"num_predict": 40, "seed": 1}}),
        ("/api/generate", {"model": "local", "prompt": "Hello", "options": {"num_predict": 40, "seed": 1}}),
        ("/mcp", {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {
            "name": "generate", "arguments": {"prompt": "Hello", "max_tokens": 40, "seed": 1}}}),
    ]
    ENDS = ([b"[DONE]"], [b"[DONE]"], [b"response.incomplete", b"response.completed"], [b"message_stop"], [b'"done":true'],
            [b'"done":true'], [b'"result"'])

    def setUp(self):
        if not pathlib.Path(STUCK_DISK).exists():
            self.skipTest(f"{STUCK_DISK} is not built")
        place = tempfile.TemporaryDirectory()
        self.addCleanup(place.cleanup)
        self.mark = pathlib.Path(place.name) / "stuck"

    def serve(self, *flags):
        return Server("--parallel", "2", "--io", "pread", "--max-context", "1024", *flags, budget="48MiB",
                      env={"LD_PRELOAD": STUCK_DISK, "MLXF_STUCK_DISK": str(self.mark)})

    def stream(self, server, index, longer=""):
        """What one stream said, and the longest time for which it said nothing."""
        path, body = self.STREAMS[index]
        headers = ["MCP-Protocol-Version: 2025-11-25", "Accept: application/json, text/event-stream"] if path == "/mcp" else []
        body = json.loads(json.dumps({**body, "stream": True}).replace("Hello", "Hello" + longer))
        data, silence, last = b"", 0, time.monotonic()
        with server.connect() as connection:
            connection.sendall(post(path, body, "Content-Type: application/json", *headers))
            while not any(end in data for end in self.ENDS[index]):
                part = connection.recv(65536)
                silence, last = max(silence, time.monotonic() - last), time.monotonic()
                self.assertTrue(part, data[-500:])
                data += part
        self.assertEqual(statuses(data), [200], data[:500])
        return data, silence

    def silences(self, server, moment, longer=""):
        """All streams at once while the disk hangs; `moment` is when it does."""
        results = []

        def work(index):
            if index < len(self.STREAMS):
                return self.stream(server, index, longer)
            while moment == "write" and server.metric("mlx_flash_requests_running") == 0:
                time.sleep(0.001)
            self.mark.touch()
            stuck = time.monotonic()
            while time.monotonic() - stuck < self.SECONDS:
                began = time.monotonic()
                self.assertEqual(server.request("GET", "/livez")[0], 200)
                self.assertIn(server.request("GET", "/health")[0], (200, 503))
                results.append(time.monotonic() - began)
                time.sleep(0.1)
            self.mark.unlink()
            return None

        if moment != "write":
            self.mark.touch()
        answers = in_threads(work, len(self.STREAMS) + 1)
        self.assertNotIn(None, answers[:-1])
        longest = max(silence for _, silence in answers[:-1])
        say(f"disk stuck for {self.SECONDS} s, {moment}: longest silence {longest:.1f} s; /livez and /health at most "
            f"{max(results):.3f} s")
        self.assertGreater(longest, 2, "the disk hung")
        self.assertLess(longest, 10)
        self.assertLess(percentile(results, 0.9), 1)

    def test_no_stream_is_silent(self):
        def work(index):
            case = (("load",), ("read", "--preload"), ("write", "--preload"))[index]
            one = type(self)()
            one.mark = self.mark.with_name(case[0])
            with one.serve(*case[1:]) as server:
                one.silences(server, case[0], " and good morning to all of you" * 20 if case[0] == "read" else "")
            return True

        self.assertEqual(in_threads(work, 3), [True] * 3)

    def test_the_end_comes_in_time(self):
        for flags, signals, most in ((("--drain", "1", "--preload"), 1, 3), (("--drain", "600", "--preload"), 2, 2),
                                     (("--drain", "1"), 1, 3)):
            with self.subTest(flags), self.serve(*flags) as server, server.connect() as connection:
                if "--preload" not in flags:
                    self.mark.touch()
                connection.sendall(post("/v1/completions", {**LONG, "stream": True}))
                read_until(connection, b"\r\n\r\n")
                self.mark.touch()
                time.sleep(0.1)
                for index in range(signals):
                    if index != 0:
                        time.sleep(0.2)
                    server.process.send_signal(signal.SIGTERM)
                    started = time.monotonic()
                server.process.wait(60)
                took = time.monotonic() - started
                say(f"stuck disk, {' '.join(flags)}: ended {took:.2f} s after the last of {signals} signals")
                self.assertLess(took, most + 0.5)
                self.mark.unlink()

    def test_a_prompt_that_failed_is_not_read_again(self):
        prompt = {"prompt": "The sea was calm and the men were silent. " * 40, "max_tokens": 400, "seed": 1,
                  "ignore_eos": True, "stream": True, "stream_options": {"include_usage": True}}
        with self.serve("--preload") as server:
            read = server.metric("mlx_flash_prompt_tokens_total") - server.metric("mlx_flash_cached_tokens_total")
            for attempt in range(3):  # As SDKs do: the request and two more.
                with server.connect() as connection:
                    connection.sendall(post("/v1/completions", prompt))
                    data = read_until(connection, b'"text"')
                    if attempt < 2:
                        self.mark.write_text("EIO")
                    data += read_until(connection, b"\r\n0\r\n\r\n" if attempt < 2 else b"[DONE]")
                if attempt < 2:
                    self.mark.unlink()
                    self.assertIn(b'"code":"model_io_error"', data)
                    self.assertNotIn(b"[DONE]", data)
            tokens = int(re.findall(rb'"prompt_tokens":(\d+)', data)[-1])
            read = (server.metric("mlx_flash_prompt_tokens_total") -
                    server.metric("mlx_flash_cached_tokens_total")) - read
            say(f"three requests for {tokens} tokens, of which two failed: {read:.0f} tokens read")
            self.assertLess(read, 1.1 * tokens)


class Ends(unittest.TestCase):
    def end(self, server, *signals):
        """How long it takes from the last signal on."""
        for index, number in enumerate(signals):
            if index != 0:
                time.sleep(0.2)  # Two at once are one to the system.
            started = time.monotonic()
            server.process.send_signal(number)
        self.assertEqual(server.process.wait(60), 0, server.text())
        return time.monotonic() - started

    def test_idle_it_takes_no_second(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            times = []
            for preload in (True, False, True):
                server = Server(*(["--preload"] if preload else []))
                self.addCleanup(server.stop)
                keep = server.connect()
                self.assertEqual(server.json("GET", "/livez")[0], 200)
                times.append(self.end(server, number))
                keep.close()
            say(f"idle, {number.name}: {min(times):.3f} to {max(times):.3f} s")
            self.assertLess(min(times), 1)

    def test_busy_it_takes_its_time_and_no_more(self):
        long_prompt = {**LONG, "prompt": "The sea was calm and the men were silent. " * 300}
        for name, body, flags, signals, most in (
                ("writing", LONG, ("--drain", "1"), [signal.SIGTERM], 3),
                ("reading", long_prompt, ("--drain", "0"), [signal.SIGTERM], 2),
                ("twice", LONG, ("--drain", "600"), [signal.SIGTERM, signal.SIGTERM], 2),
                ("Ctrl-C twice", long_prompt, ("--drain", "600"), [signal.SIGINT, signal.SIGINT], 2)):
            server = Server("--preload", *flags)
            self.addCleanup(server.stop)
            with server.connect() as connection:
                connection.sendall(post("/v1/completions", {**body, "max_tokens": 100000, "stream": True}))
                read_until(connection, b"data: " if body is LONG else b"\r\n\r\n")
                rest = []
                reader = threading.Thread(target=lambda: rest.append(read_all(connection)))
                reader.start()
                took = self.end(server, *signals)
                reader.join()
            say(f"{name}: ended after {took:.2f} s")
            self.assertIn(b'"code":"draining"', rest[0], name)
            self.assertNotIn(b"[DONE]", rest[0])
            self.assertLess(took, most + 0.5)

    def test_it_has_no_children(self):
        with Server("--preload") as server:
            server.json("POST", "/v1/chat/completions", {"messages": HELLO, "max_tokens": 2, "tools": [TOOL]})
            tasks = pathlib.Path(f"/proc/{server.process.pid}/task")
            children = [child for task in tasks.iterdir() for child in (task / "children").read_text().split()]
            self.assertEqual(children, [], "so none is orphaned")


if __name__ == "__main__":
    unittest.main()
