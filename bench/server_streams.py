#!/usr/bin/env python3
"""Speed of an OpenAI-compatible server with several answers at once: ours, llama-server, or another.

    bench/server_streams.py --url http://127.0.0.1:8080 --streams 1,4,8,16 --tokens 64 [--prompt-words 32] [--json]

For each count of streams: as many connections, each with a prompt of its own, all begun together. Tokens per second
are counted while all of them write, from the last first token to the first last one, so that prompts do not count.
Events are counted, times tokens per event of the whole answer (a token that is half a character brings none). Meanwhile /health is asked 20 times a
second. Standard library only, one thread, and no JSON is parsed while answers run: on two cores the client takes time
from the server.
"""
import argparse
import json
import random
import re
import selectors
import socket
import statistics
import sys
import time
import urllib.parse

WORDS = "river stone letter garden winter house window bridge captain evening silver market shadow music road".split()


class Stream:
    """One answer that is being read."""

    def __init__(self, address, body):
        self.socket = socket.create_connection(address)
        self.socket.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: %s:%d\r\nContent-Type: application/json\r\nConnection: close\r\n"
            b"Content-Length: %d\r\n\r\n" % (address[0].encode(), address[1], len(body)) + body)
        self.sent = time.perf_counter()
        self.times = []
        self.tail = b""
        self.head = b""  # For errors.
        self.last = b""  # Holds the usage.

    def read(self):
        """False once the answer has ended."""
        data = self.socket.recv(65536)
        if not data:
            return False
        now = time.perf_counter()
        if len(self.head) < 4096:
            self.head += data[:4096]
        data = self.tail + data
        self.times += [now] * data.count(b"data: {")
        self.last = (self.last + data)[-4096:]
        self.tail = data[-6:] if not data.endswith(b"\n") else b""
        return b"data: [DONE]" not in data

    def tokens_per_event(self):
        found = re.findall(rb'"completion_tokens": ?(\d+)', self.last)
        if not found or len(self.times) < 2:
            sys.exit(f"no whole answer: {self.head[:600]!r}")
        return int(found[-1]) / len(self.times)


def prompt(rng, words):
    return " ".join(rng.choice(WORDS) for _ in range(words))


def health(address):
    start = time.perf_counter()
    with socket.create_connection(address) as link:
        link.sendall(b"GET /health HTTP/1.1\r\nHost: %s:%d\r\nConnection: close\r\n\r\n" %
                     (address[0].encode(), address[1]))
        while link.recv(65536):
            pass
    return time.perf_counter() - start


def measure(address, count, args, seed):
    rng = random.Random(seed)
    selector = selectors.DefaultSelector()
    streams = []
    for i in range(count):
        body = {"model": args.model, "prompt": prompt(rng, args.prompt_words), "max_tokens": args.tokens,
                "stream": True, "temperature": 1.0, "seed": seed * 1000 + i, "ignore_eos": True,
                "stream_options": {"include_usage": True}}
        if args.no_cache:
            body["cache_prompt"] = False
        streams.append(Stream(address, json.dumps(body).encode()))
        selector.register(streams[-1].socket, selectors.EVENT_READ, streams[-1])
    healths, next_health, open_streams = [], time.perf_counter(), count
    while open_streams:
        for key, _ in selector.select(0.05):
            if not key.data.read():
                selector.unregister(key.fileobj)
                key.fileobj.close()
                open_streams -= 1
        if args.health and time.perf_counter() >= next_health:
            next_health = time.perf_counter() + 0.05
            healths.append(health(address))
    begin, end = max(s.times[0] for s in streams), min(s.times[-1] for s in streams)
    counted = sum(sum(begin < t <= end for t in s.times) * s.tokens_per_event() for s in streams)
    gaps = sorted(b - a for s in streams for a, b in zip(s.times, s.times[1:]))
    return {"streams": count, "tok_s": counted / (end - begin) if end > begin else 0.0,
            "first_token_s": statistics.median(s.times[0] - s.sent for s in streams),
            "gap_p99_ms": gaps[len(gaps) * 99 // 100] * 1e3,
            "health_p99_ms": sorted(healths)[len(healths) * 99 // 100] * 1e3 if healths else None}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--model", default="local")
    parser.add_argument("--streams", default="1,4,8,16")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--prompt-words", type=int, default=32)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--no-cache", action="store_true", help="llama-server: cache_prompt=false")
    parser.add_argument("--no-health", dest="health", action="store_false")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    url = urllib.parse.urlparse(args.url)
    address = (url.hostname, url.port or 80)
    rows = []
    for count in map(int, args.streams.split(",")):
        runs = [measure(address, count, args, seed + 1) for seed in range(args.repetitions)]
        row = {key: statistics.median(run[key] for run in runs) if runs[0][key] is not None else None
               for key in runs[0]}
        row["samples"] = [run["tok_s"] for run in runs]
        rows.append(row)
        if not args.json:
            print(f"{count:3} streams {row['tok_s']:8.2f} tok/s ({min(row['samples']):.2f} - {max(row['samples']):.2f})"
                  f"  {row['tok_s'] / rows[0]['tok_s']:5.2f} x  first {row['first_token_s']:.2f} s"
                  f"  gap p99 {row['gap_p99_ms']:.0f} ms"
                  + (f"  /health p99 {row['health_p99_ms']:.1f} ms" if row["health_p99_ms"] is not None else ""),
                  flush=True)
    if args.json:
        print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
