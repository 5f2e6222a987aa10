//! Firecracker started by hand with a shed's kernel, initramfs and disks: what the backend is measured against, and the
//! proof that the L1 can do what the other tests ask of it.

use std::time::Duration;

use serde_json::json;

use super::{L1, quoted};
use crate::BOOT;

/// Size of the machine's own disk; sparse.
const DISK_SIZE: &str = "4G";

/// Makes a directory `$dir` with an empty disk in it, and prints the serial numbers that Firecracker gives its two disks:
/// device, device node and inode of the file, as digits behind each other (its documentation of the block device has
/// none, its guests see these), of which a guest reads the first 20.
const PREPARE: &str = r#"
rm -rf "$dir"
mkdir -p "$dir"
truncate -s "$size" "$dir/upper.ext4"
mke2fs -q -t ext4 "$dir/upper.ext4"
for disk in "$image" "$dir/upper.ext4"; do
    stat -c '%d %r %i' "$disk" | tr -d ' ' | cut -c1-20
done
"#;

/// Starts the VMM outside of this script's session and prints its process id.
const START: &str = r#"
cd "$dir"
date +%s%N >begun
setsid firecracker --api-sock api.sock --config-file vm.json --log-path vmm.log --level Error \
    >console.log 2>&1 </dev/null &
echo $!
"#;

/// Waits for `$text` on the console without looking again and again, and prints the milliseconds since the start.
const AWAIT: &str = r#"
cd "$dir"
exec 3< <(exec tail -n +1 -f --pid="$pid" console.log)
tail=$!
found=0
timeout "$seconds" grep -qm1 -F -- "$text" <&3 || found=1
echo $((($(date +%s%N) - $(cat begun)) / 1000000))
kill "$tail" 2>/dev/null || true
[ $found = 0 ] || { tail -n 30 console.log vmm.log >&2; exit 1; }
"#;

/// A Firecracker that runs in an L1.
#[derive(Debug)]
pub struct Bare<'a> {
    l1: &'a L1,
    dir: String,
    pid: u32,
}

impl L1 {
    /// Starts one with a new disk. `words` are put behind those of the kernel command line that every machine has.
    ///
    /// # Panics
    /// When it cannot be started.
    #[track_caller]
    #[must_use]
    pub fn bare(&self, name: &str, words: &str) -> Bare<'_> {
        let dir = format!("{}/run/{name}", Self::DIR);
        let images = format!("{}/images", Self::DIR);
        let image = format!("{images}/base-rootfs.ext4");
        let variables = format!("dir={} image={} size={DISK_SIZE}", quoted(&dir), quoted(&image));
        let serials = self.sh(&format!("{variables}\n{PREPARE}"));
        let (image_serial, upper_serial) = serials.split_once('\n').expect("two serials");
        let boot_args = format!(
            "console=ttyS0 quiet panic=1 reboot=k pci=off i8042.noaux i8042.nomux i8042.dumbkbd shed.link=vsock \
             cryptomgr.notests no_timer_check tsc=reliable \
             systemd.show_status=false shed.power-off=restart shed.disk.shed-image={image_serial} shed.disk.shed-upper={upper_serial} {words}"
        );
        let config = json!({
            "boot-source": {
                "kernel_image_path": format!("{images}/vmlinux"),
                "initrd_path": format!("{images}/initrd.img"),
                "boot_args": boot_args,
            },
            "drives": [
                { "drive_id": "image", "path_on_host": image, "is_root_device": false, "is_read_only": true },
                {
                    "drive_id": "upper",
                    "path_on_host": format!("{dir}/upper.ext4"),
                    "is_root_device": false,
                    "is_read_only": false,
                    // Otherwise Firecracker ignores the guest's flushes.
                    "cache_type": "Writeback",
                },
            ],
            "machine-config": { "vcpu_count": 2, "mem_size_mib": 1024 },
            "vsock": { "guest_cid": 3, "uds_path": format!("{dir}/vsock.sock") },
            "entropy": {},
        });
        self.put(&format!("{dir}/vm.json"), config.to_string().as_bytes());
        let pid = self.sh(&format!("dir={}\n{START}", quoted(&dir)));
        Bare { l1: self, pid: pid.parse().expect("a process id"), dir }
    }
}

impl Bare<'_> {
    /// Waits until the console has `text`; returns how long after the start of the process that was, by the clock of
    /// the L1.
    ///
    /// # Panics
    /// When it does not come within the time of a boot; the message has the end of the console.
    #[track_caller]
    #[must_use]
    pub fn await_console(&self, text: &str) -> Duration {
        let (dir, text, seconds) = (quoted(&self.dir), quoted(text), BOOT.as_secs());
        let script = format!("dir={dir} pid={} text={text} seconds={seconds}\n{AWAIT}", self.pid);
        let took = self.l1.run(&script, BOOT * 2).ok().out();
        Duration::from_millis(took.parse().expect("milliseconds"))
    }

    /// Returns all of the console.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    #[must_use]
    pub fn console(&self) -> String {
        self.l1.sh(&format!("cat {}/console.log", quoted(&self.dir)))
    }

    /// Its process id in the L1.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// Presses Ctrl-Alt-Del, upon which the guest shuts down and reboots; Firecracker ends instead of booting it again.
    ///
    /// # Panics
    /// When Firecracker does not take it.
    #[track_caller]
    pub fn press_ctrl_alt_del(&self) {
        let dir = quoted(&self.dir);
        self.l1.sh(&format!(
            "curl --silent --show-error --fail --unix-socket {dir}/api.sock -X PUT http://localhost/actions \
             --data '{{\"action_type\":\"SendCtrlAltDel\"}}'"
        ));
    }

    /// Waits until the process has ended by itself.
    ///
    /// # Panics
    /// When it has not within the time of a boot; the message has the end of the console.
    #[track_caller]
    pub fn await_end(&self) {
        let (dir, seconds) = (quoted(&self.dir), BOOT.as_secs());
        let script = format!(
            "timeout {seconds} tail --pid={} -f /dev/null || {{ tail -n 30 {dir}/console.log >&2; exit 1; }}",
            self.pid
        );
        self.l1.run(&script, BOOT * 2).ok();
    }

    /// Removes its files, after its process when that still runs.
    ///
    /// # Panics
    /// When they stay.
    #[track_caller]
    pub fn remove(self) {
        let script =
            format!("kill -9 {pid} 2>/dev/null || true; rm -rf {}", quoted(&self.dir), pid = self.pid);
        self.l1.sh(&script);
    }
}
