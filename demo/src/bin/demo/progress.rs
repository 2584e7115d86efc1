//! One line for each step, with the seconds since the start.

use std::sync::OnceLock;
use std::time::Instant;

static START: OnceLock<Instant> = OnceLock::new();

/// Sets the beginning of the time that is shown; otherwise it is the first line.
pub fn begin() {
    START.get_or_init(Instant::now);
}

/// Prints a line with the time.
pub fn say(message: &str) {
    let elapsed = START.get_or_init(Instant::now).elapsed().as_secs_f64();
    println!("demo [{elapsed:6.1}s] {message}");
}
