"""A guest's root that tries to get out of the share: python3 attack.py SHARE OUTSIDE SECONDS. SHARE is the mount itself.

OUTSIDE is the path on the host of a directory beside the share, in which `sentinel` says what no guest may see. The guest
has a directory of that very path, whose own `sentinel` says something else: a link that the guest follows leads there.
"""

import ctypes
import errno
import os
import shutil
import signal
import sys
import time

SHARE, OUTSIDE, SECONDS = sys.argv[1], sys.argv[2], float(sys.argv[3])
SECRET = b"of the host"
OWN = b"of the guest"
AT_SYMLINK_FOLLOW = 0x400
libc = ctypes.CDLL(None, use_errno=True)


def read(path, **options):
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK, **options)
    try:
        return os.read(fd, 4096)
    finally:
        os.close(fd)


def never(path, **options):
    """What is there, if anything, is not the host's."""
    try:
        seen = read(path, **options)
    except OSError:
        return
    assert SECRET not in seen, f"{path} shows the host's secret"


def links():
    os.makedirs("d", exist_ok=True)
    targets = ["/", "..", "../..", "../outside", "../outside/sentinel", OUTSIDE, f"{OUTSIDE}/sentinel", "/proc/self/fd/3", "/proc/1/root"]
    targets += ["../" * depth + OUTSIDE.lstrip("/") + "/sentinel" for depth in range(1, 12)]
    for target in targets:
        os.symlink(target, "l")
        for below in ("", "/sentinel", "/outside/sentinel", f"/{OUTSIDE}/sentinel", "/../outside/sentinel"):
            never(f"l{below}")
            never(f"d/../l{below}")
        # Made, changed and removed through it: all of that happens in the guest, or nowhere.
        for change in (lambda: os.open("l/sentinel", os.O_WRONLY | os.O_TRUNC), lambda: os.unlink("l/made"), lambda: os.mkdir("l/made-dir")):
            try:
                change()
            except OSError:
                pass
        os.link("l", "l2", follow_symlinks=False)
        assert os.readlink("l2") == target
        never("l2")
        os.unlink("l2")
        os.unlink("l")
    # One more name for what a link names: the guest's kernel finds that it is elsewhere.
    os.symlink(f"{OUTSIDE}/sentinel", "l")
    assert libc.linkat(-100, b"l", -100, b"stolen", AT_SYMLINK_FOLLOW) != 0, "a link out of the share was made"
    assert ctypes.get_errno() == errno.EXDEV, os.strerror(ctypes.get_errno())
    os.unlink("l")


def dots():
    os.makedirs("a/b/c", exist_ok=True)
    for depth in range(1, 20):
        up = "../" * depth
        for path in (f"{up}outside/sentinel", f"a/b/c/{up}outside/sentinel", f"{up}{OUTSIDE}/sentinel", f"a/./b/../{up}outside/sentinel"):
            never(path)
    fd = os.open("a/b/c", os.O_RDONLY)
    for depth in range(1, 20):
        never("../" * depth + "outside/sentinel", dir_fd=fd)
    # A directory that moves while it is somebody's place.
    os.chdir("a/b/c")
    os.rename(f"{SHARE}/a/b", f"{SHARE}/b")
    for depth in range(1, 8):
        never("../" * depth + "outside/sentinel")
    os.chdir(SHARE)
    os.close(fd)
    # The share's own root has no name and no parent.
    for old, new in ((".", "x"), ("..", "x"), ("a", ".."), ("a", "../x"), ("a", "../../x")):
        try:
            os.rename(old, new)
            raise AssertionError(f"{old} was renamed to {new}")
        except OSError:
            pass
    shutil.rmtree("a")
    shutil.rmtree("b")


def strange_names():
    for name in ("proc", "self", "fd", "...", "....", " ..", ".. ", "..\n", "\\..", "%2e%2e", "．．", "C:", "con", "\x01"):
        os.mkdir(name)
        with open(f"{name}/..x", "w") as file:
            file.write("mine")
        assert os.listdir(name) == ["..x"]
        never(f"{name}/outside/sentinel")
        shutil.rmtree(name)
    os.makedirs("proc/self/fd")
    for number in range(10):
        with open(f"proc/self/fd/{number}", "w") as file:
            file.write("mine")
        assert read(f"proc/self/fd/{number}") == b"mine"
    shutil.rmtree("proc")


def handles():
    """Files by number instead of name: the file system has no such door."""
    for path in (b".", b"inner"):
        buffer = ctypes.create_string_buffer(256)
        ctypes.cast(buffer, ctypes.POINTER(ctypes.c_uint))[0] = 128
        mount = ctypes.c_int()
        if libc.name_to_handle_at(-100, path, buffer, ctypes.byref(mount), 0) == 0:
            fd = libc.open_by_handle_at(-100, buffer, os.O_RDONLY)
            assert fd < 0, "a file was opened by its handle"


def forever(function):
    """Runs a function again and again in a process of its own; errors are what it is there for."""
    pid = os.fork()
    if pid:
        return pid
    end = time.monotonic() + SECONDS
    number = 0
    code = 0
    while time.monotonic() < end:
        try:
            function(number)
        except OSError:
            pass
        except AssertionError as error:
            print(error, flush=True)
            code = 1
            break
        number += 1
    # How often, so that a race that was none is seen.
    with open(f"/tmp/race-{os.getpid()}", "w") as file:
        file.write(str(number))
    os._exit(code)


def swap_with_link(number):
    """`race` is a directory, then a link out, then a directory again."""
    os.rename("race", "aside")
    try:
        os.symlink(("../outside", OUTSIDE, "..", "/")[number % 4], "race")
        os.unlink("race")
    finally:
        os.rename("aside", "race")


def swap_by_rename(number):
    """The link takes the name at once, over nothing, and gives it back."""
    os.rename("race", "aside")
    try:
        os.rename("link", "race")
        os.rename("race", "link")
    finally:
        os.rename("aside", "race")


def swap_up(number):
    """What is deep is shallow for a while, so that its `..` are more than there are."""
    os.rename("deep/one/two", "two")
    os.rename("two", "deep/one/two")


def below(number):
    fd = os.open("race/sentinel", os.O_RDWR)
    try:
        assert SECRET not in os.read(fd, 100), "a race led to the host's secret"
        os.pwrite(fd, b"inside", 0)
    finally:
        os.close(fd)


def make_below(number):
    with open("race/made", "w") as file:
        file.write("made in a race")
    os.mkdir("race/made-dir")
    os.rmdir("race/made-dir")
    os.rename("race/made", "race/made2")
    os.unlink("race/made2")


def change_below(number):
    os.chmod("race/sentinel", 0o666)
    os.utime("race/sentinel", (1, 1))
    os.truncate("race/sentinel", 6)
    os.link("race/sentinel", f"race/link-{number}")
    os.unlink(f"race/link-{number}")


def list_below(number):
    assert "host-only" not in os.listdir("race"), "a race listed the host's directory"


def up_from_below(number):
    never("deep/one/two/three/../../../../outside/sentinel")
    never("two/three/../../outside/sentinel")
    never("deep/one/two/three/../../../../../outside/sentinel")


def races():
    os.mkdir("race")
    with open("race/sentinel", "w") as file:
        file.write("inside")
    os.symlink("../outside", "link")
    os.makedirs("deep/one/two/three")
    readers = [below, make_below, change_below, list_below, up_from_below]
    children = {forever(function): function.__name__ for function in [swap_with_link, swap_up, *readers]}
    for pid, name in children.items():
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert code == 0, f"{name} ended with {code}"
        with open(f"/tmp/race-{pid}") as file:
            count = int(file.read())
        assert count > 20, f"{name} raced {count} times only"
        print(f"{name}: {count}")
    children = [forever(function) for function in [swap_by_rename, below, make_below]]
    for pid in children:
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert code == 0, code


def main():
    signal.alarm(600)
    # Where a followed link leads in the guest.
    os.makedirs(OUTSIDE, exist_ok=True)
    with open(f"{OUTSIDE}/sentinel", "wb") as file:
        file.write(OWN)
    os.chdir(SHARE)
    before = os.listdir(".")
    os.mkdir("inner")
    for attack in (links, dots, strange_names, handles, races):
        attack()
    for name in set(os.listdir(".")).difference(before):
        if os.path.isdir(name) and not os.path.islink(name):
            shutil.rmtree(name)
        else:
            os.unlink(name)
    print("nothing got out")


main()
