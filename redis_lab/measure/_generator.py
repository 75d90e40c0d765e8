"""A process that makes load; standard library only, so that it starts fast and uses little memory.

It reads its settings as one line of JSON from standard input, connects, prints `ready`, reads the
moment to begin (nanoseconds of the monotonic clock, which all processes of a machine share), works,
and writes one line of JSON and then its samples, 64-bit integers, to standard output.

It also ends when the process that started it has ended.

- `saturate`: every connection always has a batch under way.
- `open`: request n is due at `due[n]`, independently of all other requests. It is sent on a free
  connection, or as soon as one is free, as in a service with a connection pool.

`requests` holds each request and the length of its reply; `turns` says which one comes when, and
begins again at its end.
"""

import base64
import ctypes
import itertools
import json
import os
import select
import socket
import struct
import sys
import threading
import time
from array import array
from collections import deque

now = time.monotonic_ns
CHUNK = 1 << 18
GREETING_S = 30.0
OWNER_CHECK_S = 0.25
OWN, FAILED = 1, 2  # flags of a request: a connection was free for it; its reply was an error
# If the next request is due sooner than this, it does not sleep. A virtual machine may wake up a
# tenth of a millisecond late, and it sleeps until half of this is left.
NAP_NS = 200_000
PR_SET_TIMERSLACK = 29  # linux/prctl.h


def connected(settings):
    if settings["path"]:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(GREETING_S)
        connection.connect(settings["path"])
    else:
        where = settings["host"], settings["port"]
        connection = socket.create_connection(where, timeout=GREETING_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for command in settings["greeting"]:
        connection.sendall(base64.b64decode(command))
        reply = connection.recv(CHUNK)
        if reply.startswith(b"-"):
            raise SystemExit(reply.decode(errors="replace"))
    connection.settimeout(None)
    return connection


def begin():
    print("ready", flush=True)
    start = int(sys.stdin.buffer.readline())
    while now() < start:
        time.sleep(min(0.001, (start - now()) / 1e9) if start - now() > NAP_NS else 0)
    return start


def requests_and_turns(settings):
    requests = [(base64.b64decode(text), length) for text, length in settings["requests"]]
    turns = array("i")
    turns.frombytes(base64.b64decode(settings["turns"]))
    return requests, turns


def batches_of(requests, turns, depth):
    """The requests in turn, `depth` in a batch; each batch with the length of its replies."""
    few = len(turns) // depth or 1  # at least one, of turns that begin again
    for start in range(0, few * depth, depth):
        chosen = [requests[turns[k % len(turns)]] for k in range(start, start + depth)]
        yield b"".join(request for request, _ in chosen), sum(length for _, length in chosen)


def saturate(settings, connections):
    depth = settings["depth"]
    requests, turns = requests_and_turns(settings)
    batches_in_turn = itertools.cycle(batches_of(requests, turns, depth))
    warm = begin() + settings["warm_ns"]
    end = warm + settings["ns"]
    buffer, batches, errors = bytearray(CHUNK), 0, 0
    for connection in connections:  # in the kernel: Python's timeouts cost a system call
        patience = struct.pack("ll", -(-settings["patience_ns"] // 10**9), 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, patience)
    cpu = time.process_time()
    start = now()
    owed = []  # bytes of the replies that each connection waits for
    for connection in connections:
        batch, length = next(batches_in_turn)
        connection.sendall(batch)
        owed.append(length)
    while (moment := now()) < end:
        if warm and moment >= warm:  # batches before this moment are not counted
            start, cpu, batches, warm = moment, time.process_time(), 0, 0
        for k, connection in enumerate(connections):
            length = missing = owed[k]
            while missing > 0:
                try:
                    got = connection.recv_into(buffer, min(missing, CHUNK))
                except BlockingIOError:
                    raise SystemExit(
                        "The server fell silent, or its replies got shorter."
                    ) from None
                if not got:
                    raise SystemExit("The server closed the connection.")
                if missing == length and buffer[0] == 45:  # a minus: an error
                    errors += 1
                missing -= got
            batches += 1
            batch, owed[k] = next(batches_in_turn)
            connection.sendall(batch)
    took = now() - start
    cpu = time.process_time() - cpu
    return {"requests": batches * depth, "errors": errors, "ns": took, "cpu_s": cpu}, []


def open_loop(settings, connections):
    requests, turns = requests_and_turns(settings)
    due = array("q")
    due.frombytes(base64.b64decode(settings["due"]))
    count = len(due)
    sent, done, flags = (
        array("q", bytes(8 * count)),
        array("q", bytes(8 * count)),
        array("b", bytes(count)),
    )
    free, busy = deque(connections), {}
    waiting: deque = deque()
    start = begin()
    give_up = start + (due[-1] if count else 0) + settings["patience_ns"]
    upcoming = finished = idle_ns = 0
    cpu = time.process_time()
    while finished < count:
        moment = now()
        if moment > give_up:
            break
        while upcoming < count and start + due[upcoming] <= moment:
            # A connection is free for this request: if it is late now, the generator is the cause
            flags[upcoming] = OWN if len(free) > len(waiting) else 0
            waiting.append(upcoming)
            upcoming += 1
        while waiting and free:
            n, connection = waiting.popleft(), free.popleft()
            request, length = requests[turns[n % len(turns)]]
            sent[n] = now() - start
            connection.sendall(request)
            busy[connection] = [n, 0, length]
        left = start + due[upcoming] - now() if upcoming < count else 10_000_000
        nap = 0 if left < NAP_NS else (left - NAP_NS / 2) / 1e9
        begun = now()
        if not busy:
            if nap:  # up to Python 3.13, sleeping for 0 s takes 50 µs on Linux
                time.sleep(nap)
            idle_ns += now() - begun
            continue
        readable = select.select(list(busy), (), (), nap)[0]
        if nap or not readable:
            idle_ns += now() - begun
        for connection in readable:
            n, got, length = busy[connection]
            reply = connection.recv(CHUNK)
            if not reply:
                raise SystemExit("The server closed the connection.")
            # An error, or nil although the probe got a value
            failed = got == 0 and (reply[0] == 45 or (length != 5 and reply.startswith(b"$-1")))
            got += len(reply)
            if failed or got >= length:
                flags[n] |= FAILED if failed else 0
                done[n] = now() - start
                finished += 1
                del busy[connection]
                free.append(connection)
            else:
                busy[connection][1] = got
    cpu = time.process_time() - cpu
    head = {"requests": count, "finished": finished, "cpu_s": cpu}
    took = now() - start
    head |= {"ns": took, "idle": idle_ns / max(took, 1)}
    return head, [due, sent, done, array("q", flags)]


def end_with(owner):
    """End this process soon after its owner has ended, even if the owner was killed."""
    while os.getppid() == owner:
        time.sleep(OWNER_CHECK_S)
    os._exit(1)


def wake_in_time():
    """Let sleeps end when they should. By default Linux may end them 50 µs late, and to wait for
    the next request in a loop instead takes time from a server on the same physical core.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1)


def main():
    wake_in_time()
    threading.Thread(target=end_with, args=(int(sys.argv[1]),), daemon=True).start()
    settings = json.loads(sys.stdin.buffer.readline())
    connections = [connected(settings) for _ in range(settings["connections"])]
    head, samples = {"saturate": saturate, "open": open_loop}[settings["mode"]](
        settings, connections
    )
    out = sys.stdout.buffer
    out.write(json.dumps(head).encode() + b"\n")
    for column in samples:
        out.write(column.tobytes())
    out.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
