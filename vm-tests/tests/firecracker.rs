//! The real Firecracker in an L1, which is a machine with KVM on this host. Skipped when there is no Firecracker.

use vm_tests::{L1, Promises, Watched};

const WATCHED: Watched<'static> = Watched { dirs: &["/l1/run", "/run/shed-firecracker"], cgroups: &[] };

/// What all else here stands on: the L1 has a KVM that is real, and our kernel, initramfs and image boot there.
#[test]
fn firecracker_boots_our_kernel_in_the_l1() {
    let Some(l1) = L1::boot() else { return };
    let mut promises = Promises::new();
    let before = l1.inventory(&WATCHED);
    promises.keep("the programs under test run in the L1", || {
        let versions =
            l1.sh("firecracker --version | head -n 1; shed-server version; nft --version; mke2fs -V 2>&1");
        assert!(versions.starts_with("Firecracker v"), "{versions}");
        assert!(versions.contains("nftables") && versions.contains("mke2fs"), "{versions}");
    });
    promises.keep("our kernel boots, and shed-init hands over to the image", || {
        let machine = l1.bare("first", "");
        let took = machine.await_console("shed-init: root assembled");
        print(&format!("root assembled {took:?} after the start of Firecracker"));
        let problems: Vec<_> =
            machine.console().lines().filter(|line| line.contains("warning")).map(str::to_owned).collect();
        assert!(problems.is_empty(), "{problems:?}");
        machine.press_ctrl_alt_del();
        machine.await_end();
        machine.remove();
    });
    promises.keep("a guest that powers off ends its Firecracker", || {
        let machine = l1.bare("off", "systemd.unit=poweroff.target");
        let _took = machine.await_console("shed-init: root assembled");
        machine.await_end();
        machine.remove();
    });
    promises.keep("a disk that is not there is missed by its number, and the machine ends", || {
        let machine = l1.bare("second", "shed.disk.shed-upper=none");
        let _took = machine.await_console("shed-init: error E21");
        machine.await_end();
        assert!(machine.console().contains("no disk with serial \"none\""));
        machine.remove();
    });
    promises.keep("nothing of it is left in the L1", || {
        l1.assert_nothing_beyond(&before, &WATCHED);
    });
    promises.keep("what is left is seen", || {
        l1.sh("ip tuntap add shedtap9 mode tap; nft add table ip shedtest9; mkdir -p /l1/run/left");
        let more = l1.inventory(&WATCHED).beyond(&before);
        l1.sh("ip tuntap del shedtap9 mode tap; nft delete table ip shedtest9; rmdir /l1/run/left");
        assert_eq!(more, ["file d /l1/run/left", "interface shedtap9", "nft table ip shedtest9 {", "nft }"]);
        l1.assert_nothing_beyond(&before, &WATCHED);
    });
    promises.keep("the L1 leaves nothing on its host", || l1.finish());
    promises.finish();
}

#[expect(clippy::print_stderr, reason = "a figure for whoever reads the test's output")]
fn print(line: &str) {
    eprintln!("{line}");
}
