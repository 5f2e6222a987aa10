//! One process among those of a machine, for the backends of Linux, which start a process a share.

use std::io;

use super::{Daemons, Marker};

impl Marker {
    /// Returns the name of the process that serves one share of a launch.
    pub(crate) fn process(&self, tag: &str) -> String {
        format!("{}{tag}", self.0)
    }
}

impl Daemons {
    /// Finds the processes of this name.
    ///
    /// # Errors
    /// When the process table cannot be read.
    pub(crate) async fn find_named(name: String) -> io::Result<Self> {
        Self::find_by(move |words| words.first().is_some_and(|first| first == name.as_bytes())).await
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.processes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use shed_types::LaunchId;

    use super::*;

    #[test]
    fn a_process_is_told_by_shed_launch_and_server() {
        let (one, other) = (LaunchId::generate(), LaunchId::generate());
        let shed = |name: &str| Marker::of_shed("/run/s".into(), &name.parse().unwrap());
        let words = vec![shed("api").of_launch(one).process("workspace").into_bytes(), b"--fd=9".to_vec()];
        assert!(shed("api").fits(&words) && shed("api").of_launch(one).fits(&words));
        assert!(!shed("api").of_launch(other).fits(&words));
        assert!(!shed("ap").fits(&words) && !shed("api-2").fits(&words));
        assert!(!Marker::of_shed("/run/t".into(), &"api".parse().unwrap()).fits(&words));
        assert!(!shed("api").fits(&words[1..]) && !shed("api").fits(&[]));
    }
}
