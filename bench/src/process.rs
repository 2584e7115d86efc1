//! What a process used: processor time and memory, from `/proc`.

use std::time::Duration;

use anyhow::{Context as _, Result};

/// Processor time of a process so far.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cpu {
    /// In its own code.
    pub user: Duration,
    /// In the kernel.
    pub system: Duration,
}

impl Cpu {
    /// Of a process that runs, or has ended and was not waited for yet.
    pub fn of(pid: i32) -> Result<Self> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The name, in parentheses, may hold spaces.
        let rest = text.rsplit_once(") ").context("the form of /proc/PID/stat")?.1;
        let fields: Vec<&str> = rest.split(' ').collect();
        let ticks = |at: usize| -> Result<Duration> {
            let ticks: u64 = fields.get(at).context("a field of /proc/PID/stat")?.parse()?;
            // 100 ticks a second on every Linux that this runs on.
            Ok(Duration::from_millis(ticks * 10))
        };
        Ok(Self { user: ticks(11)?, system: ticks(12)? })
    }

    /// Used since `before`.
    pub fn since(self, before: Self) -> Self {
        Self {
            user: self.user.saturating_sub(before.user),
            system: self.system.saturating_sub(before.system),
        }
    }

    /// Both together.
    pub fn total(self) -> Duration {
        self.user + self.system
    }
}

/// The most memory that a process has held so far, in bytes; `None` when it has ended.
pub fn peak_memory(pid: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}
