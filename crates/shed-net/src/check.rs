//! x
use crate::host::Host;
impl Host { }
/// x
#[derive(Debug)]
pub struct Finding;
/// x
#[derive(Debug)]
pub struct Verdict;
