//! scp, sftp, rsync and git.

use std::{fs, os::unix::fs::PermissionsExt};

use camino::Utf8Path;
use rand::Rng;
use vm_tests::{OpenSsh, Promises};

use crate::{SHED, World, trees};

/// A file that no packet holds, of no round length.
const LARGE_BYTES: usize = (10 << 20) + 12_345;

pub(crate) fn prove(world: &World, promises: &mut Promises) {
    let dir = world.stage.dir().join("copies");
    fs::create_dir_all(&dir).expect("a directory of the stage");
    single_files(world, &dir, promises);
    rsync(world, &dir, promises);
    git(&world.ssh, &dir, promises);
}

fn single_files(World { ssh, cli, .. }: &World, dir: &Utf8Path, promises: &mut Promises) {
    let large = dir.join("large file");
    let mut bytes = vec![0; LARGE_BYTES];
    rand::rng().fill_bytes(&mut bytes);
    fs::write(&large, &bytes).expect("a file");
    fs::set_permissions(&large, fs::Permissions::from_mode(0o751)).expect("a mode");
    // Over the sftp subsystem, and over a command as before OpenSSH 9.
    for (way, flag) in [("sftp", "-s"), ("rcp", "-O")] {
        promises.keep(
            &format!("scp copies a large file there and back, mode and time included ({way})"),
            || {
                // The old way hands the name to a shell, where one with a space is another matter.
                let space = if flag == "-O" { "-" } else { " ü✓ " };
                let (there, back) =
                    (format!("/workspace/{way}{space}large"), dir.join(format!("{way} back")));
                let remote = format!("shed-{SHED}:{there}");
                ssh.copy("scp", &[flag, "-q", "-p", large.as_str(), &remote]).ok();
                assert_eq!(
                    cli.exec(SHED, &["stat", "-c", "%s %a %U", &there]).ok().out(),
                    format!("{LARGE_BYTES} 751 shed")
                );
                ssh.copy("scp", &[flag, "-q", "-p", &remote, back.as_str()]).ok();
                assert!(fs::read(&back).expect("a file") == bytes, "other bytes came back");
                let time =
                    |path: &Utf8Path| fs::metadata(path).and_then(|data| data.modified()).expect("a time");
                let apart = time(&large).duration_since(time(&back)).unwrap_or_default();
                assert!(apart.as_secs() <= 1, "the times are {apart:?} apart");
            },
        );
        promises.keep(&format!("scp copies a directory there and back ({way})"), || {
            let (small, back) = (dir.join(format!("{way}-tree")), dir.join(format!("{way}-tree-back")));
            fs::create_dir_all(small.join("sub")).expect("a directory");
            for number in 0..20 {
                fs::write(small.join("sub").join(format!("f{number}")), vec![b'x'; number * 1000])
                    .expect("a file");
            }
            let remote = format!("shed-{SHED}:/workspace/{way}-tree");
            ssh.copy("scp", &[flag, "-q", "-r", "-p", small.as_str(), &remote]).ok();
            ssh.copy("scp", &[flag, "-q", "-r", "-p", &remote, back.as_str()]).ok();
            trees::assert_same(&small, &back);
        });
        promises.keep(&format!("scp of a file that is not there fails and says so ({way})"), || {
            let done = ssh.copy("scp", &[flag, &format!("shed-{SHED}:/no/such/file"), dir.as_str()]);
            assert!(done.code != 0 && done.err().contains("No such file"), "{done:?}");
        });
    }
    promises.keep("sftp carries out a batch: directories, modes, links, renames, and the bytes", || {
        let (batch, back) = (dir.join("batch"), dir.join("sftp back"));
        let lines = format!(
            "pwd\nmkdir /workspace/sftp\ncd /workspace/sftp\nput \"{large}\" one\nchmod 640 one\nrename one two\n\
             symlink two three\nls -l\nget three \"{back}\"\nrm three\n-rmdir /no/such/place\nbye\n"
        );
        fs::write(&batch, lines).expect("a batch");
        let done = ssh.copy("sftp", &["-b", batch.as_str(), &format!("shed-{SHED}")]).ok();
        assert!(fs::read(&back).expect("a file") == bytes, "other bytes came back: {}", done.out());
        assert_eq!(cli.sh(SHED, "cd /workspace/sftp && ls && stat -c %a two"), "two\n640");
    });
}

fn rsync(World { ssh, cli, .. }: &World, dir: &Utf8Path, promises: &mut Promises) {
    let (tree, back) = (dir.join("tree"), dir.join("tree-back"));
    let (source, target) = (format!("{tree}/"), format!("shed-{SHED}:/workspace/tree/"));
    fs::create_dir(&tree).expect("a directory");
    trees::make(&tree);
    promises.keep("rsync takes ten thousand files into the shed", || {
        ssh.run("rsync", &["-a", "-e", &ssh.as_words(), &source, &target]).ok();
        // Files, one of them with another name, and a link.
        assert_eq!(
            cli.sh(SHED, "find /workspace/tree -type f | wc -l; find /workspace/tree -type l | wc -l"),
            "10000\n1"
        );
    });
    promises.keep("rsync sends only what has changed, and removes what is gone", || {
        let sent = trees::change(&tree);
        let done = ssh.run("rsync", &["-a", "--delete", "--stats", &source, &target]).ok();
        let line = format!("Number of regular files transferred: {sent}");
        assert!(done.out().lines().any(|have| have == line), "{}", done.out());
    });
    promises.keep("rsync brings ten thousand files back, and each is what it was", || {
        ssh.run("rsync", &["-a", &target, &format!("{back}/")]).ok();
        trees::assert_same(&tree, &back);
    });
    promises.keep("rsync compresses and compares by content, too", || {
        let done = ssh.run("rsync", &["-azc", "--stats", &source, &target]).ok();
        assert!(done.out().contains("Number of regular files transferred: 0"), "{}", done.out());
    });
}

fn git(ssh: &OpenSsh, dir: &Utf8Path, promises: &mut Promises) {
    let work = dir.join("work");
    let git = |words: &[&str]| {
        let identity = ["-c", "user.name=A Person", "-c", "user.email=person@example.org"];
        ssh.run("git", &[&identity, words].concat()).ok().out()
    };
    let at = |place: &Utf8Path, words: &[&str]| git(&[&["-C", place.as_str()], words].concat());
    let remote = format!("shed-{SHED}:/workspace/repo.git");
    promises.keep("git pushes to a bare repository in the shed", || {
        ssh.exec(SHED, "git init -q --bare -b main /workspace/repo.git").ok();
        git(&["init", "-q", "-b", "main", work.as_str()]);
        for number in 0..300 {
            fs::write(work.join(format!("file-{number}")), format!("{number}\n").repeat(number))
                .expect("a file");
        }
        // Something that does not compress, so that the pack is large.
        fs::copy(dir.join("large file"), work.join("large")).expect("a file");
        at(&work, &["add", "."]);
        at(&work, &["commit", "-q", "-m", "first"]);
        at(&work, &["push", "-q", &remote, "main"]);
    });
    promises.keep("git clones it, by either way to write its address, and has the same history", || {
        for (name, url) in
            [("clone-1", remote.clone()), ("clone-2", format!("ssh://shed-{SHED}/workspace/repo.git"))]
        {
            let clone = dir.join(name);
            git(&["clone", "-q", &url, clone.as_str()]);
            assert_eq!(at(&clone, &["rev-parse", "HEAD"]), at(&work, &["rev-parse", "HEAD"]));
            assert_eq!(at(&clone, &["status", "--porcelain"]), "");
        }
    });
    promises.keep("git pushes a second time, and another clone pulls that", || {
        fs::write(work.join("second"), "second\n").expect("a file");
        at(&work, &["add", "."]);
        at(&work, &["commit", "-q", "-m", "second"]);
        at(&work, &["push", "-q", &remote, "main"]);
        let clone = dir.join("clone-1");
        at(&clone, &["pull", "-q", "--ff-only"]);
        assert_eq!(fs::read_to_string(clone.join("second")).expect("a file"), "second\n");
    });
}
