//! Tests of the backend with a script as vfkit.
