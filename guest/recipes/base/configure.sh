# Runs as root inside the new root, after the packages and the overlay. What belongs to one shed (its name, machine id,
# keys) is set when it boots, never here.
set -eu

# ---- the user -------------------------------------------------------------------------------------------------------
groupadd --gid 1000 shed
useradd --uid 1000 --gid shed --groups sudo,docker --shell /bin/bash --comment Shed --create-home --home-dir /home/shed shed
# No password, but not locked either: keys still work.
usermod --password '*' shed
chmod 0755 /home/shed
install -d -m 0700 -o shed -g shed /home/shed/.ssh
install -d -m 0755 -o shed -g shed /workspace /var/log/shed
install -d -m 0755 /etc/sudoers.d
echo 'shed ALL=(ALL:ALL) NOPASSWD: ALL' >/etc/sudoers.d/90-shed
chmod 0440 /etc/sudoers.d/90-shed
# The prompt of profile.d reaches shells that are not login shells too.
echo '[ -r /etc/profile.d/shed-prompt.sh ] && . /etc/profile.d/shed-prompt.sh' | tee -a /etc/skel/.bashrc /root/.bashrc >>/home/shed/.bashrc

# ---- what each shed gets for itself ---------------------------------------------------------------------------------
: >/etc/machine-id
rm -f /var/lib/dbus/machine-id /etc/ssh/ssh_host_*
ln -sfn /etc/machine-id /var/lib/dbus/machine-id
echo shed >/etc/hostname
printf '127.0.0.1 localhost\n127.0.1.1 shed\n::1 localhost ip6-localhost ip6-loopback\n' >/etc/hosts
ln -sfn ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf
rm -f /etc/localtime
ln -s /usr/share/zoneinfo/UTC /etc/localtime
echo 'LANG=C.UTF-8' >/etc/default/locale
# The root is an overlay which the initramfs has mounted; there is nothing for systemd to mount or check again.
rm -f /etc/fstab /etc/modules-load.d/modules.conf

# ---- a boot without anything that does not serve a shed -------------------------------------------------------------
systemctl enable systemd-networkd.service systemd-resolved.service
systemctl set-default multi-user.target

# Asks questions at a first boot; nobody would answer.
systemctl mask systemd-firstboot.service systemd-homed-firstboot.service
# No screen, and the serial line belongs to the host's log.
systemctl mask getty.target getty@.service serial-getty@.service console-getty.service
# Only what waits for the network would wait for it.
systemctl mask systemd-networkd-wait-online.service systemd-networkd-wait-online@.service
# Network settings come with the lease or from the agent: none on the kernel command line, none kept from the last boot.
systemctl mask systemd-network-generator.service systemd-networkd-persistent-storage.service
# Background work that makes a shed slow at a random time; the image is rebuilt instead.
systemctl mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \
    fstrim.timer man-db.timer motd-news.timer
# Prepared at build time, or without a meaning for this machine.
systemctl mask ldconfig.service systemd-journal-catalog-update.service systemd-hwdb-update.service \
    systemd-update-done.service systemd-sysusers.service systemd-machine-id-commit.service \
    systemd-journal-flush.service systemd-random-seed.service systemd-pstore.service systemd-remount-fs.service \
    systemd-udev-load-credentials.service systemd-ask-password-console.path systemd-ask-password-wall.path
# Mounted by whoever needs them. A /tmp in memory would take from builds the memory they need.
systemctl mask tmp.mount dev-hugepages.mount dev-mqueue.mount run-lock.mount sys-kernel-debug.mount \
    sys-kernel-tracing.mount sys-kernel-config.mount sys-fs-fuse-connections.mount
# A daemon of its own; rsync over SSH needs none.
systemctl disable rsync.service
# Started by the first use of its socket, and containerd by it.
systemctl disable docker.service containerd.service
systemctl enable docker.socket
# A shed is reached through its server. `sudo systemctl enable --now ssh` for another way in; keys are made then.
systemctl disable ssh.service ssh.socket sshd-keygen.service
# Would open further ways in for ssh, on every boot.
install -d /etc/systemd/system-generators
ln -s /dev/null /etc/systemd/system-generators/systemd-ssh-generator
systemctl mask modprobe@configfs.service modprobe@drm.service modprobe@efi_pstore.service modprobe@fuse.service

# ---- leave nothing of the build behind ------------------------------------------------------------------------------
# Not /tmp: mmdebstrap keeps the apt configuration there with which it cleans up after this.
rm -rf /var/log/apt /var/log/dpkg.log /var/log/bootstrap.log /var/log/alternatives.log /var/cache/debconf/*-old \
    /var/lib/dpkg/*-old
