//! What a process that serves a directory may never ask of the kernel, whatever a guest wants of it: setuid and setgid
//! bits, and devices.
//!
//! The process acts as the owner of the directory, who may set these bits on the host; a guest must not, or it could leave
//! a program there that makes any user of the host the owner. virtiofsd's own filter looks at no arguments, so this one is
//! laid below it before the program starts. `openat2` takes the mode in memory, which no filter can see: it is said not to
//! exist, and virtiofsd falls back to `openat`.

use std::io;

use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W,
    SYS_fchmod, SYS_fchmodat, SYS_mknodat, SYS_openat, SYS_openat2, sock_filter, sock_fprog,
};

/// `fchmodat2` has the same number everywhere, and libc does not know it everywhere.
const SYS_FCHMODAT2: i64 = 452;

/// The architecture as seccomp tells it (linux/audit.h: EM_* with the bits for 64 bits and little-endian).
#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xC000_00B7;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ARCH: u32 = 0;

/// Offsets in `struct seccomp_data` (linux/seccomp.h); the low half of an argument comes first.
const NR: u32 = 0;
const ARCH_AT: u32 = 4;
const fn argument(index: u32) -> u32 {
    16 + 8 * index
}

/// setuid and setgid (stat.h).
const SPECIAL_BITS: u32 = 0o6000;

const EPERM: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;

/// A filter, made before the process is forked, for nothing may be allocated after.
#[derive(Debug)]
pub(super) struct Filter(Vec<sock_filter>);

impl Filter {
    /// Writes the filter.
    pub(super) fn new() -> Self {
        let mut code = vec![load(ARCH_AT)];
        code.extend(unless(BPF_JEQ, ARCH, &[ret(ENOSYS)]));
        code.push(load(NR));
        // The calls of the x32 interface have this bit, and otherwise the same architecture.
        if cfg!(target_arch = "x86_64") {
            code.extend([jump(BPF_JGE, 0x4000_0000, 0, 1), ret(ENOSYS)]);
        }
        // Newer forms come first: numbers are compared one after the other.
        code.extend(when_call(SYS_openat2, &[ret(ENOSYS)]));
        for (call, mode) in modes() {
            code.extend(when_call(call, &refuse_bits(mode)));
        }
        for (call, mode) in nodes() {
            let mut body = refuse_bits(mode)[..3].to_vec();
            body.extend([statement(BPF_ALU | BPF_AND | BPF_K, libc::S_IFMT)]);
            for kind in [libc::S_IFCHR, libc::S_IFBLK] {
                body.extend([jump(BPF_JEQ, kind, 0, 1), ret(EPERM)]);
            }
            body.push(ret(ALLOW));
            code.extend(when_call(call, &body));
        }
        code.push(ret(ALLOW));
        Self(code)
    }

    /// Lays the filter on this thread and all that it becomes. It makes two system calls and allocates nothing.
    ///
    /// # Errors
    /// When the kernel has no seccomp.
    pub(super) fn apply(&self) -> io::Result<()> {
        // What comes of this process can gain nothing by executing a file, which is also the price of the filter.
        rustix::thread::set_no_new_privs(true)?;
        let program = sock_fprog {
            len: u16::try_from(self.0.len()).unwrap_or(u16::MAX),
            filter: self.0.as_ptr().cast_mut(),
        };
        // SAFETY: the program and its instructions live until the call returns; the kernel copies and checks them.
        let result = unsafe {
            libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, std::ptr::from_ref(&program))
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// System calls that set a mode, and which argument it is. An `openat` that makes no file may have anything there, but
/// glibc passes 0.
fn modes() -> Vec<(i64, u32)> {
    let mut all = vec![(SYS_fchmod, 1), (SYS_fchmodat, 2), (SYS_FCHMODAT2, 2), (SYS_openat, 3)];
    #[cfg(target_arch = "x86_64")]
    all.extend([(libc::SYS_chmod, 1), (libc::SYS_creat, 1), (libc::SYS_open, 2)]);
    all
}

/// System calls that make a node of any kind, and which argument its mode is.
fn nodes() -> Vec<(i64, u32)> {
    let mut all = vec![(SYS_mknodat, 2)];
    #[cfg(target_arch = "x86_64")]
    all.push((libc::SYS_mknod, 1));
    all
}

fn refuse_bits(mode: u32) -> [sock_filter; 4] {
    [load(argument(mode)), jump(BPF_JSET, SPECIAL_BITS, 0, 1), ret(EPERM), ret(ALLOW)]
}

/// `body`, which returns, for one system call.
fn when_call(call: i64, body: &[sock_filter]) -> Vec<sock_filter> {
    let past = u8::try_from(body.len()).unwrap_or(u8::MAX);
    let number = u32::try_from(call).unwrap_or(u32::MAX);
    std::iter::once(jump(BPF_JEQ, number, 0, past)).chain(body.iter().copied()).collect()
}

/// `body` unless the comparison holds.
fn unless(compare: u32, value: u32, body: &[sock_filter]) -> Vec<sock_filter> {
    let past = u8::try_from(body.len()).unwrap_or(u8::MAX);
    std::iter::once(jump(compare, value, past, 0)).chain(body.iter().copied()).collect()
}

fn load(offset: u32) -> sock_filter {
    statement(BPF_LD | BPF_W | BPF_ABS, offset)
}

fn ret(value: u32) -> sock_filter {
    statement(BPF_RET | BPF_K, value)
}

fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter { code: u16::try_from(code).unwrap_or_default(), jt: 0, jf: 0, k }
}

fn jump(compare: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: u16::try_from(BPF_JMP | compare | BPF_K).unwrap_or_default(), jt, jf, k }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::CommandExt, process::Command};

    use super::*;

    /// Runs a script below the filter and returns what it printed.
    fn below(script: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        let filter = Filter::new();
        let mut command = Command::new("sh");
        command.args(["-c", script]).current_dir(dir.path());
        // SAFETY: the closure makes two system calls.
        unsafe { command.pre_exec(move || filter.apply()) };
        let output = command.output().unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }

    #[test]
    fn special_bits_and_devices_are_refused_and_all_else_works() {
        let text = below(
            "touch f && chmod 755 f && mkdir d && chmod 1777 d && mkfifo p && ln -s f l && stat -c %a f d;
             for m in 4755 2755 6000; do chmod $m f 2>/dev/null && echo bad $m; done;
             mknod n c 1 3 2>&1 | grep -c permitted; mknod n b 1 3 2>&1 | grep -c permitted; ls | tr '\\n' ' '",
        );
        assert_eq!(text, "755\n1777\n1\n1\nd f l p ");
    }
}
