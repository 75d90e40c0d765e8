"""The relay: a tiny process that passes bytes between clients and one server, each way delayed.

Run as `python -I -S _relay.py OWNER_PID LIMIT tcp HOST PORT` (or `unix PATH`), standard library
only. It prints `port N`. Then it reads commands from standard input and answers each with `ok`:
`delay NANOSECONDS` (one way); `lose N`: the next N replies are lost with their connections, after
the server has executed the commands; `cut`: every connection is reset; `silence`: every connection
is closed at the server's side, and stays open at the client's, which is not told; `to HOST PORT`:
new connections go there. It ends at `quit`, when its input closes, or when its owner is no longer
its parent (a process that the owner forked may hold the pipe open).

It is a pure delay of unlimited bandwidth: each chunk leaves `delay` after its arrival, in order,
independently of all others. A new connection's first bytes wait one round trip longer, because
TCP's handshake costs one over a real distance. When more than LIMIT bytes wait to be written to one
side, the other side is not read until half of them are written.
"""

import contextlib
import ctypes
import gc
import heapq
import itertools
import os
import select
import selectors
import socket
import struct
import sys
import time
from collections import deque

CHUNK = 256 * 1024
CHUNK_COST = 200  # bytes that Python needs for a queued chunk in addition to its content
PARENT_CHECK_NS = 250_000_000
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
END = b""  # in a queue: the other side sends no more
RESET = None  # in a queue: the other side is gone


class End:
    """One socket of a connection, with the queue of chunks that are to be written to it."""

    __slots__ = (
        "blocked",
        "closed",
        "connecting",
        "deaf",
        "earliest",
        "ended",
        "held",
        "mask",
        "other",
        "queue",
        "queued",
        "reading",
        "sock",
    )
    other: "End"  # the socket that gets what is read here

    def __init__(self, sock, earliest):
        self.sock = sock
        self.earliest = earliest  # no chunk is written before this moment
        self.queue: deque = deque()
        self.queued = 0
        self.mask = 0
        self.reading = True  # its peer may still send
        self.connecting = self.blocked = self.held = False
        self.deaf = False  # its peer takes no more bytes
        self.ended = self.closed = False


class Relay:
    def __init__(self, owner, limit, target):
        self.owner, self.limit, self.target = owner, limit, target
        self.delay = 0
        self.losing = 0  # how many of the next replies to lose
        self.nears = set()  # the clients' ends
        self.silent = []  # sockets of clients that are not told
        self.timers = []
        self.order = itertools.count()
        self.selector = selectors.DefaultSelector()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.listener.setblocking(False)
        self.selector.register(self.listener, READ, self.accept)
        self.selector.register(0, READ, self.obey)
        self.commands = b""
        self.running = True

    def port(self):
        return self.listener.getsockname()[1]

    def wait(self, seconds):
        """Ready keys within `seconds`, to the microsecond."""
        if isinstance(self.selector, getattr(selectors, "EpollSelector", ())):
            # epoll's own timeout is in whole milliseconds; select's is not, and select can wait
            # for the epoll object itself, which frees it from select's limit of 1024 files.
            select.select([self.selector.fileno()], [], [], seconds)
            seconds = 0
        return self.selector.select(seconds)

    def run(self):
        checked = 0
        while self.running:
            now = time.monotonic_ns()
            if now - checked > PARENT_CHECK_NS:
                if os.getppid() != self.owner:
                    return
                checked = now
            while self.timers and self.timers[0][0] <= now:
                self.deliver(heapq.heappop(self.timers)[2])
            ahead = PARENT_CHECK_NS
            if self.timers:
                ahead = min(ahead, max(0, self.timers[0][0] - time.monotonic_ns()))
            for key, events in self.wait(ahead / 1e9):
                if isinstance(key.data, End):
                    self.serve(key.data, events)
                else:
                    key.data()

    def obey(self):
        received = os.read(0, 4096)
        if not received:
            self.running = False
        *lines, self.commands = (self.commands + received).split(b"\n")
        for line in lines:
            if line == b"quit":
                self.running = False
                return
            word, _, number = line.partition(b" ")
            if word == b"delay":
                self.delay = int(number)
            elif word == b"lose":
                self.losing = int(number)
            elif word == b"to":
                self.target = ("tcp", *number.decode().split())
            elif word == b"silence":
                self.silence()
            else:
                for near in list(self.nears):
                    near.queue.clear()
                    near.earliest = 0
                    self.post(near, RESET, at_once=True)
            print("ok", flush=True)

    def silence(self):
        """A duplicate keeps each client's connection open when the relay's ends are closed."""
        for near in list(self.nears):
            self.silent.append(near.sock.dup())
            self.close(near)

    def dial(self):
        """A new socket to the server, and whether it is still connecting."""
        if self.target[0] == "unix":
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(1)  # it connects at once unless the server's backlog is full
            sock.connect(self.target[1])
            sock.setblocking(False)
            return sock, False
        _, host, port = self.target
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            sock.connect((host, int(port)))
        except BlockingIOError:
            return sock, True
        return sock, False

    def accept(self):
        try:
            sock, _ = self.listener.accept()
        except BlockingIOError:
            return
        except OSError:  # no file descriptor left: let connections end first
            time.sleep(0.005)
            return
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        now = time.monotonic_ns()
        near = End(sock, now + 2 * self.delay)
        try:
            far_sock, connecting = self.dial()
        except OSError:
            near.reading = False
            near.other = near
            self.post(near, RESET)
            return
        far = End(far_sock, now + 3 * self.delay)
        far.connecting = connecting
        near.other, far.other = far, near
        self.nears.add(near)
        self.watch(near)
        self.watch(far)

    def watch(self, end):
        mask = READ if end.reading and not end.held and not end.connecting else 0
        if end.blocked or end.connecting:
            mask |= WRITE
        if mask == end.mask or end.closed:
            return
        if not end.mask:
            self.selector.register(end.sock, mask, end)
        elif not mask:
            self.selector.unregister(end.sock)
        else:
            self.selector.modify(end.sock, mask, end)
        end.mask = mask

    def serve(self, end, events):
        if end.closed:
            return
        if end.connecting:
            end.connecting = False
            if end.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                end.reading = False
                self.post(end.other, RESET)
            else:
                self.deliver(end)
        elif events & WRITE:
            self.deliver(end)
        if events & READ and not end.closed and end.mask & READ:
            self.receive(end)
        self.watch(end)

    def receive(self, end):
        try:
            chunk = end.sock.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            chunk = RESET
        if chunk and self.losing and end not in self.nears:
            self.losing -= 1
            chunk = RESET
        if not chunk:
            end.reading = False
        self.post(end.other, chunk)
        if end.other.queued > self.limit:
            end.held = True

    def post(self, end, chunk, at_once=False):
        if end.deaf and chunk is not RESET:
            return
        # never before an earlier chunk, even if the delay has just been shortened
        delay = 0 if at_once else self.delay
        due = end.earliest = max(time.monotonic_ns() + delay, end.earliest)
        end.queue.append((due, chunk))
        if chunk:
            end.queued += len(chunk) + CHUNK_COST
        heapq.heappush(self.timers, (due, next(self.order), end))

    def deliver(self, end):
        """Write the chunks that are due; timers or a writable socket start the next attempt."""
        if end.closed or end.connecting:
            return
        end.blocked = False
        now = time.monotonic_ns()
        while end.queue and end.queue[0][0] <= now:
            due, chunk = end.queue.popleft()
            if chunk is RESET:
                # without lingering, close sends a reset
                end.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close(end)
                return
            try:
                if not len(chunk):
                    end.ended = True
                    end.sock.shutdown(socket.SHUT_WR)
                    continue
                sent = end.sock.send(chunk)
            except BlockingIOError:
                sent = 0
            except OSError:
                self.deafen(end)
                break
            end.queued -= sent
            if sent < len(chunk):
                end.queue.appendleft((due, memoryview(chunk)[sent:]))
                end.blocked = True
                break
            end.queued -= CHUNK_COST
        if end.other.held and end.queued < self.limit // 2:
            end.other.held = False
            self.watch(end.other)
        if end.ended and end.other.ended:
            self.close(end)
        else:
            self.watch(end)

    def deafen(self, end):
        """Its peer has closed its read side; its remaining data and EOF are still forwarded."""
        end.deaf = end.ended = True
        end.queue.clear()
        end.queued = 0
        if not end.reading:
            self.post(end.other, RESET)

    def close(self, end):
        for one in (end, end.other):
            self.nears.discard(one)
            if not one.closed:
                one.closed = True
                if one.mask:
                    self.selector.unregister(one.sock)
                one.sock.close()
                one.queue.clear()


def precise_timers():
    """By default Linux may extend a sleep by 50 µs; ask it not to."""
    if sys.platform.startswith("linux"):
        PR_SET_TIMERSLACK = 29
        ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)


def many_files():
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # macOS allows fewer than it reports
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def main(owner, limit, *target):
    precise_timers()
    many_files()
    gc.freeze()
    relay = Relay(int(owner), int(limit), target)
    print("port", relay.port(), flush=True)
    relay.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
