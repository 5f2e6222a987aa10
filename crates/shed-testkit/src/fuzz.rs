//! Property tests that can also run for minutes: some hundred inputs in every test run, as many as fit into
//! `SHED_FUZZ_SECONDS` when that is set (`./x fuzz`).

use std::{
    fmt::Debug,
    time::{Duration, Instant},
};

use proptest::{
    strategy::Strategy,
    test_runner::{Config, TestCaseError, TestError, TestRunner},
};

/// Names how many seconds each target runs; without it a target tries [`CASES`] inputs.
const SECONDS: &str = "SHED_FUZZ_SECONDS";

/// Inputs of a target in an ordinary test run.
const CASES: u32 = 128;

/// Inputs between two looks at the clock.
const BATCH: u32 = 32;

/// Tries inputs of a strategy until one fails or the time is over, and says how many there were.
///
/// An input fails by a panic in `property`; the smallest one that does is in this function's own panic.
///
/// # Panics
/// When an input fails.
#[expect(clippy::print_stderr, reason = "how much was tried is what a run is for")]
pub fn fuzz<S: Strategy>(target: &str, strategy: &S, property: impl Fn(S::Value))
where
    S::Value: Debug,
{
    let seconds = std::env::var(SECONDS).ok().and_then(|text| text.parse().ok());
    let (budget, batch) = match seconds {
        Some(seconds) => (Duration::from_secs(seconds), BATCH),
        None => (Duration::ZERO, CASES),
    };
    // The failing input is in the message; a file beside the sources would only be one more thing to keep.
    let config = Config { cases: batch, failure_persistence: None, ..Config::default() };
    let (begun, mut tried) = (Instant::now(), 0_u64);
    loop {
        // A runner counts the cases of its whole life, and has a seed of its own.
        let result = TestRunner::new(config.clone()).run(strategy, |input| {
            property(input);
            Ok::<(), TestCaseError>(())
        });
        match result {
            Ok(()) => tried += u64::from(batch),
            Err(TestError::Fail(reason, input)) => panic!("{target}: {reason}; the input: {input:#?}"),
            Err(TestError::Abort(reason)) => panic!("{target}: no inputs could be made: {reason}"),
        }
        if begun.elapsed() >= budget {
            break;
        }
    }
    eprintln!("fuzz {target}: {tried} inputs in {} s without a finding", begun.elapsed().as_secs());
}
