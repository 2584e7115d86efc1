//! Doing what was decided. Each action is bounded in time and may be repeated.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use tracing::{debug, info, warn};

use super::{
    reconcile::{Context, Intent, ReconcileError, Seen},
    registry::{Key, Present},
    report::{Failure, Outcome},
    secrets::NamespaceSecrets,
    write,
};
use crate::merge::{
    Connected, Engine, MergeCategory, MergeError, Next, Report, UNITS_FAILING, ValidMerge, secrets,
};

/// Connecting to two clusters and two databases, with every check.
const OPEN: Duration = Duration::from_mins(2);
/// A step takes seconds; this is for a server that answers neither yes nor no.
const STEP: Duration = Duration::from_mins(5);
/// Putting back and releasing.
const DISMANTLE: Duration = Duration::from_mins(2);
/// Nobody stays connected for a longer wait than this: sources are retained for days before they are deleted.
const IDLE: Duration = Duration::from_mins(5);
/// How long a deletion waits for servers that cannot be reached.
const DELETION: Duration = Duration::from_mins(10);

/// Does what was decided.
pub(super) async fn act(
    context: &Context,
    seen: &Seen,
    intent: Intent,
    now: Timestamp,
) -> Result<Outcome, ReconcileError> {
    match intent {
        Intent::Nothing => Ok(Outcome::Nothing),
        Intent::Rest => Ok(Outcome::Rested),
        Intent::Reject(failure) => Ok(reject(context, seen, failure, now).await),
        Intent::Work(merge) => Box::pin(work(context, seen, *merge, now)).await,
        Intent::Release { merge, delete_destination } => {
            Ok(release(context, seen, merge, delete_destination, now).await)
        }
    }
}

/// Stops what runs for a spec that is refused: nobody makes a step of it until somebody changes it. So an attempt to cut
/// over is given up first, also one of a process before this, and an engine is there until that is done.
async fn reject(context: &Context, seen: &Seen, failure: Failure, now: Timestamp) -> Outcome {
    let why = format!("the spec is refused: {}", failure.message);
    let giving_up = async {
        match context.registry.running(&seen.uid, now) {
            Some(Present { engine, .. }) => engine.give_cutover_up(&why, now).await,
            None => give_refused_up(context, seen, &why, now).await,
        }
    };
    let obstacle = match tokio::time::timeout(DISMANTLE, giving_up).await {
        Ok(Ok(_)) => {
            context.registry.stop(&seen.uid).await;
            return Outcome::Failed(failure);
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {} s", DISMANTLE.as_secs()),
    };
    let message = format!(
        "{}; until that is mended, writers of the sources may be refused, as a cutover cannot be given up: {obstacle}",
        failure.message
    );
    Outcome::Failed(Failure { message, terminal: false, ..failure })
}

/// Gives up the cutover of a merge that has no engine here, as its spec is refused. Nothing is done where nothing was begun.
async fn give_refused_up(
    context: &Context,
    seen: &Seen,
    why: &str,
    now: Timestamp,
) -> Result<bool, MergeError> {
    let (true, Ok(spec)) = (seen.finalized, &seen.spec) else { return Ok(false) };
    let source = NamespaceSecrets::new(context.client.clone(), &seen.named.namespace);
    Engine::give_refused_up(&seen.owner(), spec, &source, &context.worker, why, now).await
}

/// Makes one step of a merge, with an engine that has the present spec and the present secrets.
async fn work(
    context: &Context,
    seen: &Seen,
    merge: ValidMerge,
    now: Timestamp,
) -> Result<Outcome, ReconcileError> {
    let engine = match reach(context, seen, merge, now).await {
        Ok(Reached::Running { engine, hindrance }) => Ok((engine, hindrance)),
        Ok(Reached::Connected(opening)) => {
            // Intent before effect: from the claim on there is something to release, also for another process.
            if !seen.finalized {
                write::add_finalizer(&context.client, seen).await?;
                context.registry.has_finalized(&seen.uid, &seen.named);
            }
            claim(context, seen, *opening, now).await.map(|engine| (engine, None))
        }
        Err(failure) => Err(failure),
    };
    let (engine, hindrance) = match engine {
        Ok(reached) => reached,
        Err(failure) => return Ok(Outcome::Failed(failure)),
    };
    let failure = match tokio::time::timeout(STEP, engine.step(now)).await {
        Ok(Ok(report)) => return Ok(stepped(context, seen, report, hindrance).await),
        Ok(Err(error)) => {
            context.registry.suspect_secrets(&seen.uid);
            Failure::from(&error)
        }
        Err(_) => timed_out("a step of the merge", STEP),
    };
    // What is wrong with the secrets comes first: it may be why the step failed.
    Ok(Outcome::Failed(hindrance.unwrap_or(failure)))
}

/// After a step: an engine that is not needed for some time is stopped.
async fn stepped(context: &Context, seen: &Seen, report: Report, hindrance: Option<Failure>) -> Outcome {
    if report.waiting.as_ref().is_some_and(|waiting| waiting.reason == UNITS_FAILING) {
        context.registry.suspect_secrets(&seen.uid);
    }
    let rests = is_at_rest(report.next);
    if rests {
        context.registry.stop(&seen.uid).await;
    }
    match hindrance {
        Some(failure) if !rests => Outcome::Hindered(Box::new(report), failure),
        // Secrets that nothing needs now are looked at when something does.
        Some(_) | None => Outcome::Stepped(Box::new(report)),
    }
}

/// Whether nothing is to be done for some time. That a merge is suspended does not say so: another process may have to give
/// a cutover up first, and die before it does.
fn is_at_rest(next: Next) -> bool {
    match next {
        Next::Settled => true,
        Next::After(wait) => wait > IDLE,
        Next::Now => false,
    }
}

/// A way to a resource's merge.
enum Reached {
    /// An engine that runs, and why it does not have the present secrets, if it does not.
    Running { engine: Arc<Engine>, hindrance: Option<Failure> },
    /// Connections for a new one; nothing is claimed yet.
    Connected(Box<Opening>),
}

/// An engine that is about to be.
struct Opening {
    connected: Connected,
    key: Key,
    merge: ValidMerge,
}

/// The engine of a resource if one runs that still fits, otherwise what a new one needs.
async fn reach(
    context: &Context,
    seen: &Seen,
    merge: ValidMerge,
    now: Timestamp,
) -> Result<Reached, Failure> {
    let running = context.registry.running(&seen.uid, now);
    if let Some(Present { engine, key, hindrance, secrets_are_due: false }) = &running
        && key.fits(&merge)
    {
        context.registry.retune(&seen.uid, &merge);
        return Ok(Reached::Running { engine: Arc::clone(engine), hindrance: hindrance.clone() });
    }
    let spec = seen.spec.as_ref().map_err(|invalid| Failure {
        category: "Malformed",
        message: invalid.error.clone(),
        terminal: true,
        needs_a_person: true,
    })?;
    let source = NamespaceSecrets::new(context.client.clone(), &seen.named.namespace);
    let secrets = match secrets::resolve(spec, &source).await {
        Ok(secrets) => secrets,
        Err(error) => return go_on(context, seen, &merge, running, Failure::from(&error), now),
    };
    let key = Key::new(&merge, secrets.fingerprint());
    if let Some(present) = &running
        && present.key == key
    {
        context.registry.secrets_are_the_same(&seen.uid, now);
        context.registry.retune(&seen.uid, &merge);
        return Ok(Reached::Running { engine: Arc::clone(&present.engine), hindrance: None });
    }
    // Where only secrets are other ones, what runs goes on until these are known to work.
    let running = running.filter(|present| present.key.fits(&merge));
    if running.is_none() {
        context.registry.stop(&seen.uid).await;
    }
    info!(namespace = seen.named.namespace, name = seen.named.name, "connecting");
    let connecting = async {
        let connected = Engine::connect(merge.clone(), secrets, context.worker.clone()).await?;
        connected.check_claim().await?;
        Ok(connected)
    };
    let failure = match tokio::time::timeout(OPEN, connecting).await {
        Ok(Ok(connected)) => {
            context.registry.stop(&seen.uid).await;
            return Ok(Reached::Connected(Box::new(Opening { connected, key, merge })));
        }
        Ok(Err(error)) => Failure::from(&error),
        Err(_) => timed_out("connecting", OPEN),
    };
    go_on(context, seen, &merge, running, failure, now)
}

/// What runs goes on with the secrets it has; the status says what is wrong with the present ones. Not to step it
/// would mean that nothing ends a cutover in time, and writers stay refused.
fn go_on(
    context: &Context,
    seen: &Seen,
    merge: &ValidMerge,
    running: Option<Present<Engine>>,
    failure: Failure,
    now: Timestamp,
) -> Result<Reached, Failure> {
    let Some(Present { engine, key, .. }) = running else { return Err(failure) };
    // Also what no person mends is looked at again: work goes on meanwhile.
    let failure = Failure { terminal: false, ..failure };
    warn!(
        namespace = seen.named.namespace,
        name = seen.named.name,
        category = failure.category,
        why = %failure.message,
        "the merge goes on with the secrets it has"
    );
    context.registry.secrets_cannot_be_taken(&seen.uid, &failure, now);
    if key.fits(merge) {
        context.registry.retune(&seen.uid, merge);
    }
    Ok(Reached::Running { engine, hindrance: Some(failure) })
}

/// Claims the destination and keeps the engine.
async fn claim(
    context: &Context,
    seen: &Seen,
    opening: Opening,
    now: Timestamp,
) -> Result<Arc<Engine>, Failure> {
    let Opening { connected, key, merge } = opening;
    let engine = match tokio::time::timeout(OPEN, connected.claim()).await {
        Ok(Ok(engine)) => Arc::new(engine),
        Ok(Err(error)) => return Err(Failure::from(&error)),
        Err(_) => return Err(timed_out("claiming the destination", OPEN)),
    };
    let before = context.registry.keep(&seen.uid, &seen.named, Arc::clone(&engine), key, &merge, now);
    if let Some(before) = before {
        before.stop().await;
    }
    Ok(engine)
}

/// Puts back what the merge changed and releases what it holds. After ten minutes, or if its owner says so, the
/// resource goes nevertheless, and an event says what remains.
async fn release(
    context: &Context,
    seen: &Seen,
    merge: Result<Box<ValidMerge>, Failure>,
    delete_destination: bool,
    now: Timestamp,
) -> Outcome {
    if seen.force_delete {
        context.registry.stop(&seen.uid).await;
        return Outcome::Abandoned(format!("deleted by force without cleaning up; {REMAINS}"));
    }
    // An engine that runs needs no secret any more, and those may be gone with their namespace.
    let running = context.registry.running(&seen.uid, now).map(|present| present.engine);
    if let (None, Ok(merge)) = (&running, &merge)
        && !delete_destination
        && release_complete(context, seen, merge).await
    {
        return Outcome::Released;
    }
    let opened = match (running, merge) {
        (Some(engine), _) => Ok(engine),
        (None, Ok(mut merge)) => {
            // Nobody goes on with it. Where not everything can be reached, an attempt to cut over is given up at least.
            merge.suspend = true;
            match reach(context, seen, *merge, now).await {
                Ok(Reached::Running { engine, .. }) => Ok(engine),
                Ok(Reached::Connected(opening)) => claim(context, seen, *opening, now).await,
                Err(failure) => Err(failure),
            }
        }
        (None, Err(failure)) => {
            // Nobody goes on with it either. The rest cannot be cleaned up.
            let giving_up = give_refused_up(context, seen, "the resource is deleted", now);
            if let Ok(Err(error)) = tokio::time::timeout(DISMANTLE, giving_up).await {
                debug!(%error, "a cutover cannot be given up");
            }
            Err(failure)
        }
    };
    let failure = match opened {
        // Another merge was faster between the finalizer and the claim: nothing is held.
        Err(failure) if failure.category == MergeCategory::DestinationClaimed.as_str() => {
            return Outcome::Released;
        }
        Err(failure) => failure,
        Ok(engine) => match tokio::time::timeout(DISMANTLE, engine.dismantle(delete_destination)).await {
            Ok(Ok(())) => return Outcome::Released,
            Ok(Err(error)) => {
                context.registry.stop(&seen.uid).await;
                Failure::from(&error)
            }
            Err(_) => timed_out("cleaning up", DISMANTLE),
        },
    };
    if seen.deleting_for.is_some_and(|since| since >= DELETION) {
        context.registry.stop(&seen.uid).await;
        return Outcome::Abandoned(format!(
            "cleaning up was given up after 10 minutes: {}; {REMAINS}",
            failure.message
        ));
    }
    let message = format!(
        "cleaning up before the deletion: {}; to delete it at once, annotate it with {}=true",
        failure.message,
        crate::api::FORCE_DELETE_ANNOTATION
    );
    Outcome::Failed(Failure { message, ..failure })
}

/// Releases a merge that is complete by the state database alone: its clusters and their secrets may be gone by now.
/// False if there is more to clean up; what stands in the way is found out by doing that.
async fn release_complete(context: &Context, seen: &Seen, merge: &ValidMerge) -> bool {
    let Ok(spec) = &seen.spec else { return false };
    let source = NamespaceSecrets::new(context.client.clone(), &seen.named.namespace);
    let releasing = async {
        let login = secrets::resolve_state(spec, &source).await?;
        Engine::release_complete(merge, &login).await
    };
    match tokio::time::timeout(OPEN, releasing).await {
        Ok(Ok(is_released)) => is_released,
        Ok(Err(error)) => {
            debug!(%error, "it is not known whether the merge is complete");
            false
        }
        Err(_) => false,
    }
}

const REMAINS: &str = "look after the write blocks of the sources, the destination's settings and its alias \
                       INDEX-merge-writer, and the claim in the state database yourself: docs/failure-modes.md lists them";

fn timed_out(what: &str, limit: Duration) -> Failure {
    Failure {
        category: "TimedOut",
        message: format!("{what} took longer than {} s; it is tried again", limit.as_secs()),
        terminal: false,
        needs_a_person: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_is_stopped_only_when_nothing_is_to_be_done_for_some_time() {
        for next in [Next::Settled, Next::After(IDLE * 2)] {
            assert!(is_at_rest(next), "{next:?}");
        }
        // The last one is that of a process that only helps, also where the merge is suspended.
        for next in [Next::Now, Next::After(IDLE), Next::After(Duration::from_secs(1))] {
            assert!(!is_at_rest(next), "{next:?}");
        }
    }
}
