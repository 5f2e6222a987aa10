"""Whatever changes something in a share that the host serves read-only: python3 read_only.py SHARE.

The share has `f`, `d/g` and the link `l`. The mount itself may be writable: then it is the server that refuses.
"""

import errno
import os
import sys

os.chdir(sys.argv[1])
CHANGES = {
    "open for writing": lambda: os.open("f", os.O_WRONLY),
    "open for both": lambda: os.open("f", os.O_RDWR),
    "open to append": lambda: os.open("f", os.O_WRONLY | os.O_APPEND),
    "open to truncate": lambda: os.open("f", os.O_RDONLY | os.O_TRUNC),
    "create": lambda: os.open("new", os.O_CREAT | os.O_WRONLY),
    "create to read": lambda: os.open("new", os.O_CREAT | os.O_RDONLY),
    "truncate": lambda: os.truncate("f", 0),
    "mkdir": lambda: os.mkdir("new"),
    "rmdir": lambda: os.rmdir("d"),
    "unlink": lambda: os.unlink("f"),
    "unlink a link": lambda: os.unlink("l"),
    "rename": lambda: os.rename("f", "new"),
    "rename over": lambda: os.rename("f", "d/g"),
    "link": lambda: os.link("f", "new"),
    "symlink": lambda: os.symlink("f", "new"),
    "fifo": lambda: os.mkfifo("new"),
    "node": lambda: os.mknod("new"),
    "chmod": lambda: os.chmod("f", 0o777),
    "chmod a directory": lambda: os.chmod(".", 0o777),
    "chown": lambda: os.chown("f", 1000, 1000),
    "times": lambda: os.utime("f", (1, 1)),
    "times of a link": lambda: os.utime("l", (1, 1), follow_symlinks=False),
    "attribute": lambda: os.setxattr("f", "user.x", b"1"),
}
failed = 0
for name, change in CHANGES.items():
    try:
        change()
        print(f"FAILED {name}: it was done")
        failed += 1
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EOPNOTSUPP, errno.EACCES):
            print(f"FAILED {name}: {error}")
            failed += 1
with open("f") as file:
    assert file.read() == "f of the host\n"
assert sorted(os.listdir(".")) == ["d", "f", "l"] and os.readlink("l") == "f" and os.listdir("d") == ["g"]
print(f"{len(CHANGES)} changes, {failed} not refused")
sys.exit(failed > 0)
