//! What an L1 has beyond a shed: a disk with the parts under test, and the QEMU that shows it to the machine.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    process::Command,
};

use camino::{Utf8Path, Utf8PathBuf};

use crate::{Stage, stage::link_or_copy};

/// Size of the disk: kernel and image take one gigabyte of it, what sheds write comes on top. It is sparse.
const DISK_SIZE: &str = "16G";

/// Programs of this host that the base image lacks and that a host of Firecracker has.
const TOOLS: [(&str, &str); 2] = [("nft", "nftables"), ("mke2fs", "e2fsprogs")];

/// Where programs are that need root.
const SYSTEM_PATH: &str = "/usr/sbin:/sbin";

/// Makes the disk, of hard links where that is possible until `mke2fs` copies it all.
///
/// # Panics
/// When a program is missing, or the disk cannot be made.
pub(super) fn disk(stage: &Stage, firecracker: &Utf8Path) -> Utf8PathBuf {
    let tree = stage.dir().join("l1-tree");
    for directory in ["bin", "lib", "images"] {
        fs::create_dir_all(tree.join(directory)).expect("a directory of the stage");
    }
    let parts = stage.parts();
    for program in [parts.shed(), parts.shed_server()] {
        link_or_copy(&program, &tree.join("bin").join(program.file_name().expect("a file")));
    }
    link_or_copy(firecracker, &tree.join("bin/firecracker"));
    let jailer = firecracker.with_file_name("jailer");
    if jailer.is_file() {
        link_or_copy(&jailer, &tree.join("bin/jailer"));
    }
    // A test may run a part of itself in the L1.
    let itself = std::env::current_exe().expect("a test knows its program");
    link_or_copy(
        &Utf8PathBuf::try_from(itself).expect("a path in UTF-8"),
        &tree.join("bin").join(super::ITSELF),
    );
    for file in ["vmlinux", "initrd.img", "base-rootfs.ext4"] {
        link_or_copy(&parts.guest_dir.join(file), &tree.join("images").join(file));
    }
    for (tool, package) in TOOLS {
        bring_tool(&tree, tool, package);
    }

    let disk = stage.dir().join("l1.ext4");
    let made = Command::new("mke2fs")
        .args(["-q", "-t", "ext4", "-m", "0", "-E", "lazy_itable_init=0,root_owner=0:0", "-d"])
        .args([&tree, &disk])
        .arg(DISK_SIZE)
        .env("PATH", search_path())
        .output()
        .expect("mke2fs, of e2fsprogs");
    assert!(made.status.success(), "mke2fs: {}", String::from_utf8_lossy(&made.stderr));
    fs::remove_dir_all(tree).expect("the tree is ours");
    disk
}

/// Makes a program that starts QEMU with the disk besides what it is asked for. Shed also asks QEMU what it is, with
/// a machine that can have no disk.
///
/// # Panics
/// When it cannot be written.
pub(super) fn wrapper(stage: &Stage, disk: &Utf8Path) -> Utf8PathBuf {
    let path = stage.dir().join("l1-qemu");
    let file =
        serde_json::json!({ "driver": "file", "filename": disk, "aio": "threads", "discard": "unmap" });
    let node =
        serde_json::json!({ "driver": "raw", "node-name": "l1-files", "discard": "unmap", "file": file });
    let script = format!(
        "#!/bin/sh\n\
         case \" $* \" in *' -machine none '*) exec qemu-system-x86_64 \"$@\" ;; esac\n\
         exec qemu-system-x86_64 \"$@\" -blockdev {} -device virtio-blk-pci,drive=l1-files,serial=l1-files\n",
        super::quoted(&node.to_string())
    );
    put_program(&path, &script);
    path
}

/// Copies a program of this host with its libraries and its loader, because the L1 is another system with others.
fn bring_tool(tree: &Utf8Path, tool: &str, package: &str) {
    let search_path = search_path();
    let found = search_path.split(':').map(|dir| Utf8Path::new(dir).join(tool)).find(|path| path.is_file());
    let program =
        found.unwrap_or_else(|| panic!("there is no {tool} on this host; the package {package} has it"));
    let listed = Command::new("ldd").arg(&program).output().expect("ldd, of the C library");
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let libraries: Vec<Utf8PathBuf> = libraries(&listed).collect();
    for library in &libraries {
        let to = tree.join("lib").join(library.file_name().expect("a file"));
        if !to.exists() {
            fs::copy(library, &to).unwrap_or_else(|error| panic!("cannot copy {library}: {error}"));
        }
    }
    let loader = libraries.iter().filter_map(|path| path.file_name()).find(|name| name.starts_with("ld-"));
    let loader = loader.unwrap_or_else(|| panic!("{program} names no loader: {listed}"));
    let own = format!(".{tool}");
    fs::copy(&program, tree.join("bin").join(&own)).expect("a copy on the stage");
    let l1 = super::L1::DIR;
    let script = format!("#!/bin/sh\nexec {l1}/lib/{loader} --library-path {l1}/lib {l1}/bin/{own} \"$@\"\n");
    put_program(&tree.join("bin").join(tool), &script);
    if tool == "mke2fs" {
        symlink(tool, tree.join("bin/mkfs.ext4")).expect("a link on the stage");
    }
}

/// Reads the files out of what ldd prints: `name => /path (address)`, and `/path (address)` of the loader.
fn libraries(listed: &str) -> impl Iterator<Item = Utf8PathBuf> {
    listed.lines().filter_map(|line| {
        let line = line.trim();
        let path = line.split_once(" => ").map_or(line, |(_, path)| path).split(' ').next()?;
        path.starts_with('/').then(|| Utf8PathBuf::from(path))
    })
}

fn put_program(path: &Utf8Path, script: &str) {
    let put =
        fs::write(path, script).and_then(|()| fs::set_permissions(path, PermissionsExt::from_mode(0o755)));
    put.unwrap_or_else(|error| panic!("cannot write {path}: {error}"));
}

fn search_path() -> String {
    format!("{}:{SYSTEM_PATH}", std::env::var("PATH").unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_ldd_are_those_with_a_path() {
        let listed = "\tlinux-vdso.so.1 (0x00007f63)\n\tlibc.so.6 => /lib/libc.so.6 (0x00007f63)\n\
                      \tlibgone.so => not found\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f63)\n";
        let found: Vec<_> = libraries(listed).collect();
        assert_eq!(found, ["/lib/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]);
    }
}
