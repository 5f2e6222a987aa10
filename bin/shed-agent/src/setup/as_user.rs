//! Does work on files as a user of the guest, so that links and modes that this user has made give nothing that is not
//! the user's already, and so that shares of the host see the user and not root.

use std::{io, time::Duration};

use rustix::fs::Gid;

use crate::{
    apart::{ApartError, apart},
    exec::users::User,
};

/// Says why the work was not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum AsUserError {
    #[error("cannot become user {user} for it")]
    Become { user: String, source: io::Error },
    #[error("the file system does not answer")]
    Stuck,
}

/// Does the work in a thread whose file accesses are those of the user, and waits `limit` for it. A file system that
/// hangs keeps the thread, and nobody else.
pub(super) async fn as_user<T: Send + 'static>(
    user: &User,
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, AsUserError> {
    let identity = user.clone();
    let failed = |source| AsUserError::Become { user: user.name.clone(), source };
    match apart(limit, move || assume(&identity).map(|()| work()), drop).await {
        Ok(done) => done.map_err(failed),
        Err(ApartError::Stuck) => Err(AsUserError::Stuck),
        Err(error @ (ApartError::Thread(_) | ApartError::Ended)) => Err(failed(error.into())),
    }
}

/// Gives the calling thread, and no other, the user's identity for file accesses (setfsuid(2)). The thread ends with the
/// work: there is no way back that would have to be right.
fn assume(user: &User) -> io::Result<()> {
    // An agent that is not root (in its own tests) is the user already.
    if !rustix::process::geteuid().is_root() || user.uid == 0 {
        return Ok(());
    }
    let groups: Vec<Gid> = user.groups.iter().map(|&id| Gid::from_raw(id)).collect();
    rustix::thread::set_thread_groups(&groups)?;
    // SAFETY: setfsgid(2) and setfsuid(2) take an integer, touch no memory, and change the calling thread only. They
    // return the identity before the call, so a second call that changes nothing (-1 is nobody's) tells the new one.
    let (uid, gid) = unsafe {
        libc::setfsgid(user.gid);
        libc::setfsuid(user.uid);
        (libc::setfsuid(u32::MAX), libc::setfsgid(u32::MAX))
    };
    if uid.cast_unsigned() == user.uid && gid.cast_unsigned() == user.gid {
        Ok(())
    } else {
        Err(io::ErrorKind::PermissionDenied.into())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt, PermissionsExt},
    };

    use super::*;

    #[tokio::test]
    async fn files_are_the_users_and_what_is_not_the_users_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let secret = dir.path().join("secret");
        fs::write(&secret, "").unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: only root can become somebody else");
            return;
        }
        let user = User { name: "x".into(), uid: 4711, gid: 4712, groups: vec![4712], home: "/".into() };
        let file = dir.path().join("made");
        let made = file.clone();
        let read = as_user(&user, Duration::from_secs(60), move || {
            fs::write(made, "").unwrap();
            fs::read(secret)
        });
        assert_eq!(read.await.unwrap().unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        let meta = fs::metadata(&file).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (4711, 4712));
        // The others are root still.
        fs::write(dir.path().join("mine"), "").unwrap();
        assert_eq!(fs::metadata(dir.path().join("mine")).unwrap().uid(), 0);
    }

    #[tokio::test]
    async fn a_file_system_that_hangs_holds_nobody() {
        let user = crate::exec::users::default("", "", "");
        let (release, hold) = std::sync::mpsc::channel::<()>();
        let stuck = as_user(&user, Duration::from_millis(20), move || hold.recv().is_ok()).await;
        assert!(matches!(stuck, Err(AsUserError::Stuck)), "{stuck:?}");
        drop(release);
    }
}
