//! Processes which the harness starts, and can end, kill, pause and start again.
//!
//! Invariants:
//! - a process is recorded in its run folder (`processes/NAME.json`) as soon as it runs, and known by its id *and*
//!   the time it started at, so that an id which the kernel gave to somebody else is never signalled;
//! - it leads a process group of its own, and a signal goes to it, to its group and to all its descendants
//!   (Postgres' backends leave the group);
//! - a process of an *owned* run ends with its owner, however that one dies: a watchdog, a three-line shell script
//!   in a group of its own, holds the end of a pipe from the owner and kills the group when the pipe closes. A
//!   process of a *shared* run has no watchdog and goes on after `testenv up` has ended.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::places;
use crate::progress::tail;
use crate::user::User;

/// How long a process may take to end by itself before it is killed.
const GRACE: Duration = Duration::from_secs(45);

/// Kills the group `$1` when its standard input closes, that is when the process that started it is gone.
const WATCHDOG: &str = r#"read -r _; kill -s KILL -- "-$1""#;

/// How to start a process; the same again after it was killed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Launch {
    /// Name in the run folder, for instance `kubernetes-etcd`.
    pub name: String,
    /// The program file.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Variables; beside these it has only `PATH` and `LANG`.
    pub environment: BTreeMap<String, String>,
    /// Its working folder.
    pub folder: PathBuf,
    /// As whom it runs, if not as ourselves.
    pub user: Option<User>,
    /// Where its output goes (appended).
    pub log: PathBuf,
    /// Postgres ends fast on an interrupt, the others on a termination.
    pub interrupt: bool,
}

/// A process on this machine, told apart from a later one with the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Process id.
    pub pid: i32,
    /// When it started, in clock ticks since boot.
    pub started: u64,
}

/// What the run folder remembers of a process.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    identity: Identity,
    launch: Launch,
}

/// A process that was started here, or that another run of the harness started.
#[derive(Debug)]
pub struct Process {
    launch: Launch,
    record: PathBuf,
    owned: bool,
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    identity: Identity,
    // Only of those that this process started: it must be waited for.
    child: Option<Child>,
    watchdog: Option<(Child, ChildStdin)>,
}

impl Identity {
    /// This process.
    pub fn own() -> Result<Self> {
        Self::of(i32::try_from(std::process::id())?).context("cannot read /proc/self")
    }

    /// The process of that id, if there is one now.
    #[must_use]
    pub fn of(pid: i32) -> Option<Self> {
        Some(Self { pid, started: Stat::of(pid)?.started })
    }

    /// Whether it still runs; one that died and is not waited for yet doesn't.
    #[must_use]
    pub fn alive(self) -> bool {
        Stat::of(self.pid)
            .is_some_and(|stat| stat.started == self.started && !matches!(stat.state, 'Z' | 'X'))
    }

    /// Waits until it has ended, for at most `limit`; whether it has.
    fn wait(self, limit: Duration) -> Result<bool> {
        let Some(pid) = Pid::from_raw(self.pid) else { return Ok(true) };
        let descriptor = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(descriptor) => descriptor,
            Err(rustix::io::Errno::SRCH) => return Ok(true),
            Err(error) => return Err(error).context("cannot watch a process"),
        };
        // Asked only now: from here on the descriptor means this very process.
        let deadline = Instant::now() + limit;
        while self.alive() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            let left = Timespec::try_from(left)?;
            match poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], Some(&left)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error).context("cannot wait for a process"),
            }
        }
        Ok(true)
    }

    fn signal(self, signal: Signal) -> Result<()> {
        let Some(pid) = Pid::from_raw(self.pid) else { return Ok(()) };
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(descriptor) if self.alive() => match pidfd_send_signal(descriptor, signal) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
                Err(error) => Err(error).with_context(|| format!("cannot signal process {}", self.pid)),
            },
            Ok(_) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("cannot reach process {}", self.pid)),
        }
    }

    /// It, the rest of its group, and all descendants.
    fn family(self) -> Vec<Self> {
        let all: Vec<Stat> = fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .filter_map(|entry| Stat::of(entry.ok()?.file_name().to_str()?.parse().ok()?))
            .collect();
        let mut family = vec![self.pid];
        let mut seen = 0;
        while seen < family.len() {
            let parent = family[seen];
            seen += 1;
            for stat in &all {
                if (stat.parent == parent || stat.group == self.pid) && !family.contains(&stat.pid) {
                    family.push(stat.pid);
                }
            }
        }
        family
            .into_iter()
            .filter_map(|pid| {
                let started = if pid == self.pid {
                    self.started
                } else {
                    all.iter().find(|stat| stat.pid == pid)?.started
                };
                Some(Self { pid, started })
            })
            .collect()
    }
}

/// The fields of `/proc/PID/stat` that matter here.
struct Stat {
    pid: i32,
    state: char,
    parent: i32,
    group: i32,
    started: u64,
}

impl Stat {
    fn of(pid: i32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The program's name, in parentheses, may hold spaces and parentheses itself.
        let fields: Vec<&str> = text[text.rfind(')')? + 1..].split_whitespace().collect();
        Some(Self {
            pid,
            state: fields.first()?.chars().next()?,
            parent: fields.get(1)?.parse().ok()?,
            group: fields.get(2)?.parse().ok()?,
            started: fields.get(19)?.parse().ok()?,
        })
    }
}

impl Process {
    /// Starts a process and records it below `run`. An owned one ends with this process.
    pub fn start(launch: Launch, run: &Path, owned: bool) -> Result<Self> {
        let record = run.join("processes").join(format!("{}.json", launch.name));
        let process = Self { launch, record, owned, running: Mutex::new(None) };
        process.restart()?;
        Ok(process)
    }

    /// The processes recorded below `run`, running or not.
    pub fn recorded(run: &Path) -> Result<Vec<Self>> {
        let folder = run.join("processes");
        let mut processes = Vec::new();
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(processes),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", folder.display())),
        };
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                let Record { identity, launch } = serde_json::from_slice(&fs::read(&path)?)
                    .with_context(|| format!("{} is damaged", path.display()))?;
                let running = Mutex::new(Some(Running { identity, child: None, watchdog: None }));
                processes.push(Self { launch, record: path, owned: false, running });
            }
        }
        processes.sort_by(|a, b| a.launch.name.cmp(&b.launch.name));
        Ok(processes)
    }

    /// Its name in the run folder.
    pub fn name(&self) -> &str {
        &self.launch.name
    }

    /// Its id, while it runs.
    pub fn pid(&self) -> Option<i32> {
        self.lock().as_ref().filter(|running| running.identity.alive()).map(|running| running.identity.pid)
    }

    /// An error with the end of its log if it doesn't run.
    pub fn check(&self) -> Result<()> {
        if self.pid().is_none() {
            let log = &self.launch.log;
            bail!("{} has ended; the end of {}:\n{}", self.launch.name, log.display(), tail(log));
        }
        Ok(())
    }

    /// Waits until it has ended by itself, for at most `limit`, and says how: `None` while it runs, or if it was
    /// killed from here or not started here.
    pub fn ended(&self, limit: Duration) -> Result<Option<ExitStatus>> {
        let identity = self.lock().as_ref().map(|running| running.identity);
        let Some(identity) = identity else { return Ok(None) };
        if !identity.wait(limit)? {
            return Ok(None);
        }
        let mut running = self.lock();
        let Some(found) = running.as_mut().filter(|found| found.identity == identity) else {
            return Ok(None);
        };
        let Some(child) = &mut found.child else { return Ok(None) };
        let status = child.wait().context("cannot wait for a process that has ended")?;
        found.end_watchdog();
        *running = None;
        Ok(Some(status))
    }

    /// Starts it (again), with the same arguments, ports and data. It must not run.
    pub fn restart(&self) -> Result<()> {
        let mut running = self.lock();
        if running.as_ref().is_some_and(|running| running.identity.alive()) {
            bail!("{} runs already", self.launch.name);
        }
        *running = None;
        let launch = &self.launch;
        let log = File::options()
            .create(true)
            .append(true)
            .open(&launch.log)
            .with_context(|| format!("cannot write {}", launch.log.display()))?;
        let mut command = Command::new(&launch.program);
        command
            .args(&launch.arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into()))
            .env("LANG", "C.UTF-8")
            .envs(&launch.environment)
            .current_dir(&launch.folder)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        if let Some(user) = &launch.user {
            command.uid(user.uid).gid(user.gid);
        }
        let child = command.spawn().with_context(|| format!("cannot start {}", launch.program.display()))?;
        let pid = i32::try_from(child.id())?;
        let watchdog = if self.owned { Some(watchdog(pid)?) } else { None };
        let identity = Identity::of(pid).with_context(|| format!("{} ended at once", launch.name))?;
        *running = Some(Running { identity, child: Some(child), watchdog });
        if let Some(folder) = self.record.parent() {
            fs::create_dir_all(folder)?;
        }
        places::write_private(
            &self.record,
            &serde_json::to_vec_pretty(&Record { identity, launch: launch.clone() })?,
        )
    }

    /// Ends it in order, or kills it after 45 seconds; nothing of its family is left. Fine if it doesn't run.
    pub fn stop(&self) -> Result<()> {
        let mut running = self.lock();
        if let Some(found) = running.as_mut() {
            let family = found.identity.family();
            if self.launch.interrupt {
                found.identity.signal(Signal::INT)?;
            } else {
                // Also to those it started: a launcher may not wait for its server.
                family.iter().try_for_each(|member| member.signal(Signal::TERM))?;
            }
            // A paused one takes the signal only when it goes on.
            family.iter().try_for_each(|member| member.signal(Signal::CONT))?;
            let deadline = Instant::now() + GRACE;
            for member in &family {
                member.wait(deadline.saturating_duration_since(Instant::now()))?;
            }
            found.kill(&family)?;
            *running = None;
        }
        places::remove(&self.record)
    }

    /// Kills it and all its family at once, as a power failure would; it can be started again.
    pub fn kill_9(&self) -> Result<()> {
        let mut running = self.lock();
        if let Some(found) = running.as_mut() {
            let family = found.identity.family();
            found.kill(&family)?;
            *running = None;
        }
        Ok(())
    }

    /// Stops it in its tracks: it answers nothing, its connections stay open.
    pub fn pause(&self) -> Result<()> {
        self.signal_family(Signal::STOP)
    }

    /// Lets a paused one go on.
    pub fn resume(&self) -> Result<()> {
        self.signal_family(Signal::CONT)
    }

    fn signal_family(&self, signal: Signal) -> Result<()> {
        let running = self.lock();
        let Some(running) = running.as_ref() else { bail!("{} doesn't run", self.launch.name) };
        running.identity.family().into_iter().try_for_each(|member| member.signal(signal))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    /// Kills all of the family and waits until each is gone, then the watchdog, and only then lets go of the id.
    fn kill(&mut self, family: &[Identity]) -> Result<()> {
        for member in family.iter().copied().chain(self.identity.family()) {
            member.signal(Signal::KILL)?;
        }
        if let (Some(group), true) = (Pid::from_raw(self.identity.pid), self.child.is_some()) {
            // Whoever joined the group in between. The group's id is ours as long as the child is not waited for.
            match kill_process_group(group, Signal::KILL) {
                Ok(()) | Err(rustix::io::Errno::SRCH | rustix::io::Errno::PERM) => {}
                Err(error) => return Err(error).context("cannot kill a process group"),
            }
        }
        for member in family {
            if !member.wait(GRACE)? {
                bail!("process {} is still there {} s after it was killed", member.pid, GRACE.as_secs());
            }
        }
        self.end_watchdog();
        if let Some(child) = &mut self.child {
            child.wait().context("cannot wait for a process that was killed")?;
        }
        Ok(())
    }

    fn end_watchdog(&mut self) {
        if let Some((mut watchdog, pipe)) = self.watchdog.take() {
            // It must not fire once the id is free. That it is gone already is fine.
            let _ = watchdog.kill();
            drop(pipe);
            let _ = watchdog.wait();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.owned
            && let Err(error) = self.kill_9()
        {
            crate::progress::say(&self.launch.name, &format!("could not be ended: {error:#}"));
        }
    }
}

fn watchdog(group: i32) -> Result<(Child, ChildStdin)> {
    let mut child = Command::new("/bin/sh")
        .args(["-c", WATCHDOG, "watchdog", &group.to_string()])
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start the watchdog")?;
    let pipe = child.stdin.take().context("the watchdog has no pipe")?;
    Ok((child, pipe))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn sleeper(name: &str, script: &str) -> (PathBuf, Process) {
        let run = std::env::temp_dir().join(format!("testenv-{name}-{}", std::process::id()));
        fs::create_dir_all(&run).unwrap();
        let launch = Launch {
            name: name.to_owned(),
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            environment: BTreeMap::new(),
            folder: run.clone(),
            user: None,
            log: run.join("log"),
            interrupt: false,
        };
        let process = Process::start(launch, &run, true).unwrap();
        (run, process)
    }

    #[test]
    fn a_process_is_known_killed_and_started_again() {
        let (run, process) = sleeper("again", "sleep 1000 & exec sleep 1000");
        let first = process.pid().unwrap();
        assert_eq!(Process::recorded(&run).unwrap()[0].pid(), Some(first));
        process.kill_9().unwrap();
        assert_eq!(process.pid(), None);
        assert!(process.check().is_err());
        process.restart().unwrap();
        assert_ne!(process.pid(), Some(first));
        process.stop().unwrap();
        assert!(Process::recorded(&run).unwrap().is_empty());
        places::remove(&run).unwrap();
    }

    #[test]
    fn a_process_that_left_the_group_ends_with_its_parent() {
        let (run, process) = sleeper("family", "setsid sleep 1000 & wait");
        let identity = process.lock().as_ref().unwrap().identity;
        let deadline = Instant::now() + Duration::from_secs(10);
        while identity.family().len() < 2 && Instant::now() < deadline {
            std::thread::yield_now();
        }
        let family = identity.family();
        assert_eq!(family.len(), 2);
        process.stop().unwrap();
        assert!(family.iter().all(|member| !member.alive()));
        places::remove(&run).unwrap();
    }

    #[test]
    fn a_process_that_ends_by_itself_says_how() {
        let (run, process) = sleeper("ended", "until [ -e end ]; do sleep 0.05; done; exit 3");
        assert_eq!(process.ended(Duration::ZERO).unwrap(), None);
        std::fs::write(run.join("end"), "").unwrap();
        let status = process.ended(Duration::from_secs(20)).unwrap();
        assert_eq!(status.and_then(|status| status.code()), Some(3));
        assert_eq!(process.pid(), None);
        places::remove(&run).unwrap();
    }

    #[test]
    fn a_paused_process_can_still_be_stopped() {
        let (run, process) = sleeper("paused", "exec sleep 1000");
        process.pause().unwrap();
        process.stop().unwrap();
        assert_eq!(process.pid(), None);
        places::remove(&run).unwrap();
    }
}
