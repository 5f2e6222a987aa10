//! The states of a machine, by the names that vfkit's REST interface gives them.
//!
//! Kept by [`crate::monitor`] as QEMU tells it, shown by [`crate::rest`].

use serde_json::{Value, json};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Starting,
    Running,
    Paused,
    Stopping,
    Stopped,
}

impl State {
    /// The answer to `GET /vm/state`: the state and what it lets one ask for.
    pub(crate) fn json(self) -> Value {
        let name = match self {
            Self::Starting => "Starting",
            Self::Running => "Running",
            Self::Paused => "Paused",
            Self::Stopping => "Stopping",
            Self::Stopped => "Stopped",
        };
        let running = self == Self::Running;
        let paused = self == Self::Paused;
        json!({
            "state": format!("VirtualMachineState{name}"),
            "canStart": self == Self::Stopped,
            "canPause": running,
            "canResume": paused,
            "canStop": running,
            "canHardStop": running || paused,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_says_what_can_be_asked_for() {
        let asked = |state: State| {
            let seen = state.json();
            ["canStart", "canPause", "canResume", "canStop", "canHardStop"]
                .map(|name| seen[name] == json!(true))
        };
        assert_eq!(State::Running.json()["state"], "VirtualMachineStateRunning");
        assert_eq!(asked(State::Running), [false, true, false, true, true]);
        assert_eq!(asked(State::Paused), [false, false, true, false, true]);
        assert_eq!(asked(State::Starting), [false; 5]);
        assert_eq!(asked(State::Stopping), [false; 5]);
        assert_eq!(asked(State::Stopped), [true, false, false, false, false]);
    }
}
