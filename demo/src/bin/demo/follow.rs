//! `kubectl get esim -w`, passed through until the merge has ended.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use testenv::kubernetes::Access;
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::controller::Controller;
use crate::kubernetes::NAMESPACE;
use crate::manifest::NAME;

/// A merge of the demo's size takes less than two minutes; one that takes longer than this hangs.
const LIMIT: Duration = Duration::from_mins(15);
/// How often the controller is looked at: a process of another parent gives no event.
const LOOK: Duration = Duration::from_millis(500);

/// Prints each change until the phase is `Completed`. `Failed` is an error, with the resource's own words.
pub async fn follow(access: &Access, controller: &mut Controller) -> Result<()> {
    let ended = tokio::time::timeout(LIMIT, watch(access, controller)).await;
    match ended {
        Ok(result) => result,
        Err(_) => {
            bail!("the merge is not completed after {} minutes:\n{}", LIMIT.as_secs() / 60, describe(access))
        }
    }
}

async fn watch(access: &Access, controller: &mut Controller) -> Result<()> {
    let mut looks = tokio::time::interval(LOOK);
    loop {
        let mut child = tokio::process::Command::from(access.kubectl_command())
            .args(["get", "esim", NAME, "-n", NAMESPACE, "-w"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start kubectl")?;
        let output = child.stdout.take().context("kubectl has no output")?;
        let mut lines = BufReader::new(output).lines();
        let mut phase_column = None;
        loop {
            tokio::select! {
                line = lines.next_line() => {
                    // The apiserver ends a watch now and then; a new one begins with the state as it is.
                    let Some(line) = line.context("reading from kubectl")? else { break };
                    println!("{line}");
                    match phase(&line, &mut phase_column) {
                        Some("Completed") => return Ok(()),
                        Some("Failed") => bail!("the merge has failed:\n{}", describe(access)),
                        _ => {}
                    }
                }
                _ = looks.tick() => controller.keep_alive()?,
            }
        }
        child.wait().await.context("kubectl")?;
    }
}

/// The phase in a line of the table; the header says where it stands.
fn phase<'a>(line: &'a str, column: &mut Option<usize>) -> Option<&'a str> {
    if line.starts_with("NAME") {
        *column = line.find("PHASE");
        return None;
    }
    line.get((*column)?..)?.split_whitespace().next()
}

fn describe(access: &Access) -> String {
    access.kubectl(&["describe", "esim", NAME, "-n", NAMESPACE]).unwrap_or_else(|error| format!("{error:#}"))
}

#[cfg(test)]
mod tests {
    use super::phase;

    #[test]
    fn finds_the_phase_where_the_header_says() {
        let mut column = None;
        assert_eq!(phase("NAME          PHASE       PROGRESS", &mut column), None);
        assert_eq!(phase("opengatellm   Copying     12%", &mut column), Some("Copying"));
        assert_eq!(phase("opengatellm   Completed   100%", &mut column), Some("Completed"));
        assert_eq!(phase("opengatellm", &mut column), None);
    }
}
