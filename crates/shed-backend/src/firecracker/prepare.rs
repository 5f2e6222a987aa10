//! From a machine's description to a process that can be started: its disks are locked, its files written, its jail
//! furnished. Nothing runs yet.

use std::{fs, io, os::fd::OwnedFd};

use camino::{Utf8Path, Utf8PathBuf};
use shed_net::TapOwner;

use super::{
    FirecrackerBackend, Host,
    disks::Disks,
    jail::{self, Confinement, JailGuard, JailerProgram},
    machine::{self, Surroundings},
    place::Place,
};
use crate::{StartVmError, VmSpec, socket_names::make_dir};

/// A machine that can be started.
#[derive(Debug)]
pub(super) struct Prepared {
    /// Where it will run.
    pub(super) place: Place,
    /// Removes its jail, if it has one, unless it is started.
    pub(super) jail: JailGuard,
    /// Whom it will run as.
    pub(super) owner: TapOwner,
    pub(super) binary: Utf8PathBuf,
    pub(super) args: Vec<String>,
    /// The lock of its own disk, in a jail.
    pub(super) stdin: Option<OwnedFd>,
    /// The locks of its own disks, otherwise.
    pub(super) inherited: Vec<OwnedFd>,
}

/// What went wrong with which file.
type Failed = (Utf8PathBuf, io::Error);

impl FirecrackerBackend {
    /// Checks what a machine is made of, and prepares its start.
    pub(super) async fn prepare(&self, host: &Host, spec: &VmSpec) -> Result<Prepared, StartVmError> {
        self.try_prepare(host, spec).await.map_err(|(path, source)| StartVmError::Prepare {
            shed: spec.shed.clone(),
            path,
            source,
        })
    }

    async fn try_prepare(&self, host: &Host, spec: &VmSpec) -> Result<Prepared, Failed> {
        let with = |path: &Utf8Path| {
            let path = path.to_owned();
            move |error| (path, error)
        };
        // Firecracker's own words for a missing file are harder to read.
        for path in [&spec.kernel, &spec.initrd] {
            fs::metadata(path).map_err(with(path))?;
        }
        // Before what an earlier machine has left is removed: that it has ended is what the locks say.
        let disks = Disks::take(&spec.disks)?;
        make_dir(&self.config.socket_dir).map_err(with(&self.config.socket_dir))?;
        let sockets = self.sockets(&spec.shed);
        sockets.remove().map_err(with(&sockets.api))?;
        if let Some(jails) = &self.jails {
            self.remove_jails(&spec.shed).await.map_err(with(jails.dir()))?;
        }
        let metrics = machine::metrics_path(spec);
        // Each machine begins a new one, and Firecracker only writes where a file is.
        fs::write(&metrics, "").map_err(with(&metrics))?;
        match &host.confinement {
            Confinement::Jailer { program, .. } => self.prepare_jail(program, spec, disks, &metrics),
            Confinement::Seccomp { .. } | Confinement::None { .. } => {
                self.prepare_openly(host, spec, disks, &metrics)
            }
        }
    }

    fn prepare_openly(
        &self,
        host: &Host,
        spec: &VmSpec,
        disks: Disks,
        metrics: &Utf8Path,
    ) -> Result<Prepared, Failed> {
        let place = Place::open(self.sockets(&spec.shed));
        let around =
            Surroundings { sockets: place.sockets(), cid: self.cid(spec), metrics, serials: &disks.serials };
        let path = machine::config_path(spec);
        // Written anew for each start and read by nobody after it, so it needs no care for crashes.
        fs::write(&path, machine::config_file(spec, around)).map_err(|error| (path.clone(), error))?;
        let args = machine::arguments(spec, place.sockets(), &path, self.config.seccomp);
        Ok(Prepared {
            place,
            jail: JailGuard::none(),
            owner: TapOwner::this_process(),
            binary: host.binary.clone(),
            args,
            stdin: None,
            inherited: disks.locks,
        })
    }

    fn prepare_jail(
        &self,
        jailer: &JailerProgram,
        spec: &VmSpec,
        disks: Disks,
        metrics: &Utf8Path,
    ) -> Result<Prepared, Failed> {
        let mut locks = disks.locks.into_iter();
        let (stdin, another) = (locks.next(), locks.next());
        if another.is_some() {
            let reason = "a machine in a jail can hold the lock of one disk, and has one to write to";
            return Err((machine::config_path(spec), io::Error::other(reason)));
        }
        let owner = jailer.owner(spec.network.as_ref());
        let jail = jailer.jails.jail(&spec.shed, spec.launch_id, &jailer.name);
        let guard = JailGuard::new(jail.clone());
        let within = jail::furnish(&jail, spec, metrics, owner)?;
        let sockets = jail::sockets_inside(&spec.shed);
        let metrics = jail::metrics_inside();
        let around = Surroundings {
            sockets: &sockets,
            cid: self.cid(spec),
            metrics: &metrics,
            serials: &disks.serials,
        };
        let text = machine::config_file(&within, around);
        let path = machine::config_path(spec);
        // The jail goes with the machine; what it was told can be read afterwards here.
        fs::write(&path, &text).map_err(|error| (path, error))?;
        let config = jail.write_config(&text).map_err(|error| (jail.root(), error))?;
        let own = machine::arguments_but_id(&within, &sockets, &config, self.config.seccomp);
        Ok(Prepared {
            place: Place::jailed(jail.clone(), &spec.shed),
            jail: guard,
            owner,
            binary: jailer.binary.clone(),
            args: jail.arguments(&jailer.firecracker, owner).into_iter().chain(own).collect(),
            stdin,
            inherited: Vec::new(),
        })
    }

    fn cid(&self, spec: &VmSpec) -> u32 {
        self.config.first_cid + spec.network.as_ref().map_or(0, |lease| u32::from(lease.index))
    }
}
