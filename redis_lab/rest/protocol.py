"""The Upstash REST protocol: from a request to commands, from a reply to JSON.

It follows the service's documentation, and the tests compare it with the service's own client,
`upstash-redis`:

- `POST /` with a command as a JSON array; `/pipeline` and `/multi-exec` with an array of commands.
- `GET`, `HEAD`, `POST` or `PUT` of `/set/key/value?EX=10`: the path, then the body, then the query.
- `{"result": …}` or `{"error": …}`; for several commands an array of these, or one error when none
  of the commands was executed. Status 200, 400 for an error in the command, 401 without the token,
  405 for another method, 500 when Redis does not answer.
- `Upstash-Encoding: base64`: every string in the result except OK is base64. Without it, bytes that
  are not UTF-8 become U+FFFD.
- `Upstash-Response-Format: resp2`: the reply, or all replies in order, in RESP2 instead of JSON;
  not together with base64. A transaction is always answered in JSON.
- The token as `Authorization: Bearer …` or `?_token=…`, on every route. A second one is read-only:
  only commands that read, and not those that may read everything, such as KEYS and SCAN.

Commands that wait, subscribe or change the connection are refused, because connections are shared.
Commands that are dangerous for the server and its other databases are refused unless allowed.
"""

from __future__ import annotations

import base64
import json
import re
from typing import Any
from urllib.parse import unquote_to_bytes

NAME = re.compile(rb"[A-Za-z][\w.-]*")
WAITS = {*b"BLPOP BRPOP BRPOPLPUSH BLMOVE BLMPOP BZPOPMIN BZPOPMAX BZMPOP WAIT WAITAOF".split()}
LISTENS = {*b"SUBSCRIBE PSUBSCRIBE SSUBSCRIBE UNSUBSCRIBE PUNSUBSCRIBE SUNSUBSCRIBE".split()}
LISTENS |= {*b"MONITOR SYNC PSYNC REPLCONF".split()}
TRANSACTS = {*b"MULTI EXEC DISCARD WATCH UNWATCH".split()}
CONNECTS = {*b"AUTH HELLO SELECT CLIENT QUIT RESET READONLY READWRITE ASKING CLUSTER".split()}

_REASONS = {
    "deletes more than its own keys": b"FLUSHALL FLUSHDB",
    "reaches other databases": b"SWAPDB MOVE",
    "sets up the server or shows its secrets": b"CONFIG ACL MODULE",
    "changes who replicates whom": b"REPLICAOF SLAVEOF FAILOVER",
    "moves keys to or from other servers": b"MIGRATE RESTORE RESTORE-ASKING",
    "stops or blocks the server": b"SHUTDOWN DEBUG SAVE BGSAVE BGREWRITEAOF PFDEBUG PFSELFTEST",
}
DANGEROUS = {name: reason for reason, names in _REASONS.items() for name in names.split()}
# The dangerous commands that a script can call; the text may be in any of Lua's quotation marks
CALLS = re.compile(rb"""\bp?call\s*\(?\s*(?:['"]|\[=*\[)\s*([\w-]+)""")

# Allowed in addition to commands that read a key; and excluded, because they may read everything
HARMLESS = {*b"PING ECHO TIME".split()}
TOO_POWERFUL = {*b"SCAN RANDOMKEY DBSIZE".split()}

Command = list[bytes]


# ---------------------------------------------------------------- requests


class Refused(Exception):
    """Not a Redis command, or one that is unavailable over HTTP."""


def parse_json(body: bytes) -> Any:
    """Parsed JSON, with numbers kept as they were written. Raises: Refused."""
    try:
        return json.loads(body, parse_int=str, parse_float=str, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise Refused("ERR failed to parse the body as JSON") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def parse_command(words: object, allow_dangerous: bool = False) -> Command:
    """A command from a JSON array. Raises: Refused."""
    if not isinstance(words, list) or not words:
        raise Refused("ERR a command is a JSON array: its name, then its arguments")
    command = []
    for word in words:
        if isinstance(word, bool):
            word = "true" if word else "false"
        if not isinstance(word, str):
            raise Refused("ERR an argument is a string or a number, not null, an array or a map")
        command.append(word.encode("utf-8", "surrogatepass"))
    return _checked(command, allow_dangerous)


def parse_commands(body: bytes, allow_dangerous: bool = False) -> list[Command | Refused]:
    """The commands of a pipeline or transaction; an error takes the place of a malformed command.

    Raises: Refused when there are none.
    """
    rows = parse_json(body)
    if not isinstance(rows, list) or not rows or not all(isinstance(row, list) for row in rows):
        raise Refused("ERR the body must be a JSON array of commands, and not empty")
    found: list[Command | Refused] = []
    for row in rows:
        try:
            found.append(parse_command(row, allow_dangerous))
        except Refused as error:
            found.append(error)
    return found


def parse_path(path: str, query: str, body: bytes, allow_dangerous: bool = False) -> Command:
    """The command of a path-style request: `/set/key`, the body, `?EX=10`. Raises: Refused."""
    command = [unquote_to_bytes(part) for part in path.removeprefix("/").split("/")]
    if body:
        command.append(body)
    for part in query.split("&") if query else ():
        name, equals, value = part.replace("+", " ").partition("=")
        if name != "_token":
            command += [unquote_to_bytes(word) for word in ((name, value) if equals else (name,))]
    return _checked(command, allow_dangerous)


def _checked(command: Command, allow_dangerous: bool) -> Command:
    """Returns the command. Raises: Refused if it is unavailable over HTTP."""
    if not NAME.fullmatch(command[0]):
        raise Refused("ERR a command begins with its name, one word")
    name = command[0].upper()
    blocks = name in (b"XREAD", b"XREADGROUP") and b"BLOCK" in {w.upper() for w in command}
    shown = name.decode()
    if name in WAITS or blocks:
        raise Refused(f"ERR {shown} would wait, and a request over HTTP does not: ask again later")
    if name in LISTENS:
        raise Refused(f"ERR {shown} needs a connection that stays open; use Redis over TCP")
    if name in TRANSACTS:
        raise Refused(f"ERR {shown} would outlive its request; POST the commands to /multi-exec")
    debugs = name == b"SCRIPT" and [word.upper() for word in command[1:2]] == [b"DEBUG"]
    if name in CONNECTS or debugs:
        raise Refused(f"ERR {shown} is not allowed here: connections to Redis are shared")
    if not allow_dangerous and (danger := _danger(name, command[1:])):
        raise Refused(
            f"ERR {shown} is refused: {danger}. gateway(..., allow_dangerous=True) allows it"
        )
    return command


def _danger(name: bytes, arguments: Command) -> str:
    """Why a command is dangerous; "" if it is harmless."""
    words = [word.upper() for word in arguments]
    if name in DANGEROUS:
        return f"it {DANGEROUS[name]}"
    if name == b"COPY" and b"DB" in words[2:]:
        return f"with DB it {DANGEROUS[b'MOVE']}"
    if name == b"FUNCTION" and words[:1] in ([b"FLUSH"], [b"RESTORE"]):
        return "with FLUSH or RESTORE it changes the functions of everyone"
    if name in (b"EVAL", b"EVAL_RO", b"SCRIPT", b"FUNCTION"):
        for word in arguments:
            for called in CALLS.findall(word):
                if called.upper() in DANGEROUS or called.upper() == b"SELECT":
                    return f"its script calls {called.decode(errors='replace').upper()}"
    return ""


# ---------------------------------------------------------------- replies


def _to_json(value: object, in_base64: bool) -> object:
    """A RESP2 reply, converted to values that JSON can represent."""
    if isinstance(value, list):
        return [_to_json(item, in_base64) for item in value]
    if isinstance(value, Exception):  # inside the return value of a script
        return _to_json(error_text(value).encode(), in_base64)
    if not isinstance(value, bytes):
        return value
    if in_base64 and value != b"OK":
        return base64.b64encode(value).decode()
    return value.decode(errors="replace")


class Several(list):
    """The replies to several commands, or to one on a route for several."""


def to_resp2(value: object) -> bytes:
    """A reply in RESP2, as Redis sends it over TCP."""
    if isinstance(value, Exception):
        return b"-" + error_text(value).replace("\r", " ").replace("\n", " ").encode() + b"\r\n"
    if value is None:
        return b"$-1\r\n"
    if isinstance(value, list):
        return b"*%d\r\n" % len(value) + b"".join(map(to_resp2, value))
    if isinstance(value, int):
        return b":%d\r\n" % value
    if value == b"OK":  # the only simple string that a client may compare
        return b"+OK\r\n"
    assert isinstance(value, bytes)
    return b"$%d\r\n%b\r\n" % (len(value), value)


def read_only_commands(table: list) -> set[bytes]:
    """The names of the commands that only read, and of subcommands as "OBJECT|ENCODING".

    `table` is the reply to COMMAND.
    """
    found = set(HARMLESS)
    for name, _, flags, _, _, _, categories, *more in table:
        subcommands = more[2] if len(more) > 2 else []
        found |= read_only_commands(subcommands) - HARMLESS
        if b"readonly" in flags and not {b"@dangerous", b"@scripting"} & {*categories}:
            found.add(name.upper())
    return found - TOO_POWERFUL


def error_text(error: Exception) -> str:
    """An error reply as Redis sent it; redis-py removes the code from the text of some."""
    code = getattr(error, "status_code", None)
    return f"{code} {error}" if code else str(error)


def format_reply(reply: object, in_base64: bool) -> dict[str, object]:
    if isinstance(reply, Exception):
        return {"error": error_text(reply)}
    return {"result": _to_json(reply, in_base64)}
