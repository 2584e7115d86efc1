//! What starting a part needs: free ports, passwords, and waiting until it answers.

use std::fs::{self, File};
use std::io::Read as _;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::places;
use crate::process::Process;

/// Between two questions whether a part is ready.
const INTERVAL: Duration = Duration::from_millis(150);

/// A free port of 127.0.0.1, chosen at random below the range from which the kernel takes ports for outgoing
/// connections, so that nothing takes it before the part does; no other process that starts parts gets it, as long as
/// this one lives.
pub fn free_port() -> Result<u16> {
    static RESERVED: Mutex<Vec<File>> = Mutex::new(Vec::new());
    let folder = places::cache()?.join("ports");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    for _ in 0..200 {
        let random: [u8; 2] = random()?;
        let port = 20_000 + u16::from_ne_bytes(random) % 10_000;
        let path = folder.join(port.to_string());
        let lock = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        if lock.try_lock().is_ok() && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            RESERVED.lock().unwrap_or_else(PoisonError::into_inner).push(lock);
            return Ok(port);
        }
    }
    bail!("no free port between 20000 and 29999 on 127.0.0.1 after 200 attempts")
}

/// A new password: 32 hexadecimal digits.
pub fn password() -> Result<String> {
    let random: [u8; 16] = random()?;
    Ok(format!("{:032x}", u128::from_ne_bytes(random)))
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("cannot read /dev/urandom")?;
    Ok(bytes)
}

/// Asks until the answer is yes; an error once one of the processes has ended, or after `limit` (with the last
/// answer, which `ask` gives as the reason).
pub fn wait(what: &str, processes: &[&Process], limit: Duration, ask: impl Fn() -> Result<()>) -> Result<()> {
    let deadline = Instant::now() + limit;
    loop {
        for process in processes {
            process.check()?;
        }
        match ask() {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > deadline => {
                return Err(error)
                    .with_context(|| format!("{what} is not ready after {} s", limit.as_secs()));
            }
            // A program that starts can only be asked again.
            Err(_) => std::thread::sleep(INTERVAL),
        }
    }
}
