//! As whom the server's threads work.

use rustix::{
    fs::{Gid, Mode, Uid},
    io::Errno,
    process::{getegid, geteuid, umask},
    thread::{UnshareFlags, set_thread_groups, set_thread_res_gid, set_thread_res_uid, unshare_unsafe},
};
use std::io;

use super::{GUEST_ID, NOBODY};

/// The directory's owner, and the user who acts for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Identity {
    owner: (u32, u32),
    acting: (u32, u32),
    /// The process is root, and the owner is not.
    become_owner: bool,
}

impl Identity {
    /// For a directory with this owner and group.
    pub(super) fn of(uid: u32, gid: u32) -> Self {
        let root = geteuid().is_root();
        let acting = if root { (uid, gid) } else { (geteuid().as_raw(), getegid().as_raw()) };
        Self { owner: (uid, gid), acting, become_owner: root && uid != 0 }
    }

    /// uid and gid as the guest sees them.
    pub(super) fn seen(&self, uid: u32, gid: u32) -> (u32, u32) {
        let group = gid == self.owner.1 || gid == self.acting.1;
        let id = |ours: bool| if ours { GUEST_ID } else { NOBODY };
        (id(self.is_owner(uid)), id(group))
    }

    /// Whether a file of this user is the guest's own.
    pub(super) fn is_owner(&self, uid: u32) -> bool {
        uid == self.owner.0 || uid == self.acting.0
    }

    /// Makes the calling thread work as whom it should: with a umask of its own, because the guest's kernel has applied its
    /// own already, and as the owner when the process is root.
    ///
    /// # Errors
    /// When the kernel refuses, as it does in a user namespace that does not have the owner.
    pub(super) fn adopt(&self) -> io::Result<()> {
        // SAFETY: only root, working directory and umask become the thread's own; memory and descriptors stay shared.
        unsafe { unshare_unsafe(UnshareFlags::FS) }?;
        umask(Mode::empty());
        if self.become_owner {
            self.drop_root().map_err(|error| {
                let (uid, gid) = self.owner;
                let message =
                    format!("cannot work as the owner of the shared directory ({uid}:{gid}): {error}");
                io::Error::new(io::Error::from(error).kind(), message)
            })?;
        }
        Ok(())
    }

    /// The effective ids alone: with them go the capabilities over files.
    fn drop_root(&self) -> Result<(), Errno> {
        let (uid, gid) = self.owner;
        set_thread_groups(&[])?;
        set_thread_res_gid(None, Gid::from_raw(gid), None)?;
        set_thread_res_uid(None, Uid::from_raw(uid), None)
    }
}
