"""Reaches a shed with AsyncSSH: commands, sftp, forwarded ports. usage: PORT KNOWN_HOSTS SHED WEB_PORT

Raises, and so ends with another code than 0, at the first thing that is not as it should be.
"""

import asyncio
import os
import sys
import tempfile

import asyncssh

PORT, KNOWN_HOSTS, SHED, WEB_PORT = int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
TIMEOUT = 120


def connect():
    return asyncssh.connect(
        "127.0.0.1", PORT, username=SHED, known_hosts=KNOWN_HOSTS, client_keys=None, agent_path=None, config=None,
        connect_timeout=TIMEOUT, login_timeout=TIMEOUT,
    )


def equal(have, want):
    assert have == want, f"{have!r:.300} is not {want!r:.300}"


async def commands(connection):
    done = await connection.run("cat; echo err >&2; exit 7", input="in\n")
    equal((done.stdout, done.stderr, done.exit_status), ("in\n", "err\n", 7))
    payload = os.urandom(5_000_000)
    done = await connection.run("cat", input=payload, encoding=None)
    assert done.stdout == payload, f"{len(done.stdout)} bytes came back, or others"
    # Many at once over the one connection.
    some = await asyncio.gather(*(connection.run(f"echo {n}; exit {n}") for n in range(20)))
    equal([(one.stdout, one.exit_status) for one in some], [(f"{n}\n", n) for n in range(20)])


async def signals(connection):
    async with connection.create_process("echo up; exec sleep 4730") as process:
        equal(await process.stdout.readline(), "up\n")
        process.send_signal("TERM")
        done = await process.wait()
        equal((done.exit_signal or ("",))[0], "TERM")
    async with connection.create_process("trap 'echo got INT; exit 3' INT; echo up; while :; do sleep 0.1; done") as process:
        equal(await process.stdout.readline(), "up\n")
        process.send_signal("INT")
        equal(await process.stdout.readline(), "got INT\n")
        equal((await process.wait()).exit_status, 3)


async def terminals(connection):
    async with connection.create_process("bash", term_type="xterm-256color", term_size=(90, 20)) as process:
        process.stdin.write("stty size\n")
        await process.stdout.readuntil("20 90")
        process.change_terminal_size(91, 21)
        process.stdin.write("stty size\n")
        await process.stdout.readuntil("21 91")
        process.stdin.write("exit 6\n")
        equal((await process.wait()).exit_status, 6)


async def sftp(connection):
    with tempfile.TemporaryDirectory() as here:
        one, back = os.path.join(here, "one"), os.path.join(here, "back")
        with open(one, "wb") as file:
            file.write(os.urandom(3_000_000))
        async with connection.start_sftp_client() as files:
            await files.put(one, "/workspace/asyncssh.bin")
            await files.get("/workspace/asyncssh.bin", back)
            equal((await files.stat("/workspace/asyncssh.bin")).size, 3_000_000)
            await files.remove("/workspace/asyncssh.bin")
        with open(one, "rb") as sent, open(back, "rb") as got:
            assert sent.read() == got.read(), "other bytes came back"


async def forwards(connection):
    reader, writer = await connection.open_connection("localhost", WEB_PORT)
    writer.write(b"GET /small HTTP/1.0\r\n\r\n")
    writer.write_eof()
    equal((await reader.read()).split(b"\r\n\r\n", 1)[1], b"hello\n")
    listener = await connection.forward_local_port("127.0.0.1", 0, "127.0.0.1", WEB_PORT)
    async with listener:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.get_port())
        writer.write(b"GET /small HTTP/1.0\r\n\r\n")
        equal((await reader.read()).split(b"\r\n\r\n", 1)[1], b"hello\n")
        writer.close()
    for host, port, code in (("192.0.2.1", 80, 1), ("localhost", 9, 2)):
        try:
            await connection.open_connection(host, port)
        except asyncssh.ChannelOpenError as refused:
            equal(refused.code, code)
        else:
            raise AssertionError(f"{host}:{port} was not refused")
    try:
        await connection.forward_remote_port("", 0, "localhost", 1)
    except asyncssh.ChannelListenError:
        return
    raise AssertionError("a remote forward was not refused")


async def rekeying():
    # A new key for every megabyte, in the middle of a transfer in both directions.
    payload = os.urandom(8_000_000)
    async with asyncssh.connect(
        "127.0.0.1", PORT, username=SHED, known_hosts=KNOWN_HOSTS, client_keys=None, agent_path=None, config=None,
        rekey_bytes=1_000_000,
    ) as connection:
        done = await connection.run("cat", input=payload, encoding=None)
        assert done.stdout == payload, f"{len(done.stdout)} bytes came back, or others"


async def main():
    async with connect() as connection:
        for part in (commands, signals, terminals, sftp, forwards):
            await asyncio.wait_for(part(connection), TIMEOUT)
            print(part.__name__, "ok", flush=True)
    await asyncio.wait_for(rekeying(), TIMEOUT)
    print("rekeying ok", flush=True)


asyncio.run(main())
