"""Reaches a shed with Paramiko: commands, sftp, a forwarded port. usage: PORT KNOWN_HOSTS SHED WEB_PORT

Raises, and so ends with another code than 0, at the first thing that is not as it should be.
"""

import hashlib
import os
import sys
import threading

import paramiko

PORT, KNOWN_HOSTS, SHED, WEB_PORT = int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
TIMEOUT = 120


def connect(**how):
    client = paramiko.SSHClient()
    client.load_host_keys(KNOWN_HOSTS)
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    client.connect(
        "127.0.0.1", PORT, SHED, timeout=TIMEOUT, banner_timeout=TIMEOUT, auth_timeout=TIMEOUT, channel_timeout=TIMEOUT,
        allow_agent=False, look_for_keys=False, **how,
    )
    return client


def equal(have, want):
    assert have == want, f"{have!r:.300} is not {want!r:.300}"


def commands(client):
    stdin, stdout, stderr = client.exec_command("cat; echo err >&2; exit 7", timeout=TIMEOUT)
    stdin.write("in\n")
    stdin.channel.shutdown_write()
    equal((stdout.read(), stderr.read(), stdout.channel.recv_exit_status()), (b"in\n", b"err\n", 7))
    payload = os.urandom(5_000_000)
    stdin, stdout, _ = client.exec_command("sha256sum", timeout=TIMEOUT)
    stdin.write(payload)
    stdin.channel.shutdown_write()
    equal(stdout.read().split()[0].decode(), hashlib.sha256(payload).hexdigest())
    _, stdout, _ = client.exec_command("stty size; echo $TERM", timeout=TIMEOUT, get_pty=True)
    equal(stdout.read().split(), [b"24", b"80", b"vt100"])


def shell(client):
    channel = client.invoke_shell(term="xterm-256color", width=100, height=30)
    channel.settimeout(TIMEOUT)
    seen = b""

    def until(text):
        nonlocal seen
        while text not in seen:
            some = channel.recv(65536)
            assert some, f"the shell ended: {seen!r}"
            seen += some

    channel.send(b"stty size\n")
    until(b"30 100")
    channel.resize_pty(width=111, height=33)
    channel.send(b"stty size\n")
    until(b"33 111")
    channel.send(b"exit 5\n")
    equal(channel.recv_exit_status(), 5)


def sftp(client):
    payload = os.urandom(3_000_000)
    with client.open_sftp() as files:
        with files.open("/workspace/paramiko.bin", "wb") as file:
            file.set_pipelined(True)
            file.write(payload)
        with files.open("/workspace/paramiko.bin", "rb") as file:
            file.prefetch(len(payload))
            equal(hashlib.sha256(file.read()).digest(), hashlib.sha256(payload).digest())
        equal(files.stat("/workspace/paramiko.bin").st_size, len(payload))
        files.rename("/workspace/paramiko.bin", "/workspace/paramiko.2")
        assert "paramiko.2" in files.listdir("/workspace")
        files.remove("/workspace/paramiko.2")
        try:
            files.stat("/no/such/file")
        except FileNotFoundError:
            return
        raise AssertionError("a file that is not there was found")


def forwards(client):
    transport = client.get_transport()
    channel = transport.open_channel("direct-tcpip", ("localhost", WEB_PORT), ("127.0.0.1", 40000), timeout=TIMEOUT)
    channel.settimeout(TIMEOUT)
    channel.sendall(b"GET /small HTTP/1.0\r\n\r\n")
    channel.shutdown_write()
    equal(b"".join(iter(lambda: channel.recv(65536), b"")).split(b"\r\n\r\n", 1)[1], b"hello\n")
    for target, code in ((("192.0.2.1", 80), 1), (("localhost", 9), 2)):
        try:
            transport.open_channel("direct-tcpip", target, ("127.0.0.1", 40000), timeout=TIMEOUT)
        except paramiko.ChannelException as refused:
            equal(refused.code, code)
        else:
            raise AssertionError(f"{target} was not refused")


def together(client):
    results = {}

    def one(number):
        _, stdout, _ = client.exec_command(f"echo {number}; exit {number}", timeout=TIMEOUT)
        results[number] = (stdout.read(), stdout.channel.recv_exit_status())

    threads = [threading.Thread(target=one, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    equal(results, {number: (f"{number}\n".encode(), number) for number in range(12)})


def keys():
    for key in (paramiko.RSAKey.generate(3072), paramiko.ECDSAKey.generate()):
        with connect(pkey=key) as client:
            equal(client.exec_command("echo in", timeout=TIMEOUT)[1].read(), b"in\n")


def auth_none():
    # Paramiko never tries this by itself.
    transport = paramiko.Transport(("127.0.0.1", PORT))
    transport.start_client(timeout=TIMEOUT)
    transport.auth_none(SHED)
    channel = transport.open_session(timeout=TIMEOUT)
    channel.exec_command("exit 4")
    equal(channel.recv_exit_status(), 4)
    transport.close()


def password():
    try:
        connect(password="secret")
    except paramiko.BadAuthenticationType as refused:
        assert "publickey" in refused.allowed_types and "password" not in refused.allowed_types, refused.allowed_types
    except paramiko.AuthenticationException:
        pass
    else:
        raise AssertionError("a password was accepted")


def main():
    with connect(pkey=paramiko.ECDSAKey.generate()) as client:
        for part in (commands, shell, sftp, forwards, together):
            part(client)
            print(part.__name__, "ok", flush=True)
    for part in (keys, auth_none, password):
        part()
        print(part.__name__, "ok", flush=True)


main()
