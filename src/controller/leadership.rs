//! One leader at a time, by a `Lease` (the protocol of client-go: 15 s, renewed every 2 s, given up after 10 s).
//!
//! Work begins when the lease is held and is dropped when it is lost; what the work has started in the background
//! is stopped then by `clean_up`. The lease is handed over at once when the work ends by itself.

use k8s_controller::LeaderElection;
use kube::Client;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::metrics::Metrics;

/// Runs `work` while this process is the leader, again and again, until `shutdown`; `clean_up` after each time.
///
/// `work` must end soon after `shutdown`. Without `election` this process is the leader.
pub(super) async fn while_leading<W, C>(
    election: Option<LeaderElection>,
    metrics: &Metrics,
    shutdown: &CancellationToken,
    work: impl Fn() -> W,
    clean_up: impl Fn() -> C,
) where
    W: Future<Output = ()>,
    C: Future<Output = ()>,
{
    let Some(election) = election else {
        metrics.leading(true);
        work().await;
        clean_up().await;
        metrics.leading(false);
        return;
    };
    while !shutdown.is_cancelled() {
        let (leading, leads) = watch::channel(false);
        let work = async {
            leading.send_replace(true);
            metrics.leading(true);
            info!("leading");
            work().await;
            // Before the lease is handed over: the next leader finds units that nobody holds.
            clean_up().await;
        };
        tokio::select! {
            ended = election.with_lease(work) => {
                metrics.leading(false);
                if ended.is_none() {
                    warn!("leadership was lost; what runs is stopped");
                    clean_up().await;
                }
            }
            () = ends_while_standing_by(shutdown, leads) => {}
        }
    }
}

/// Who we are in that lease. `identity` must be unique among the replicas.
pub(super) fn election(client: Client, namespace: &str, lease: &str, identity: &str) -> LeaderElection {
    LeaderElection::new(client, namespace, lease, identity)
}

/// A leader ends by itself; one that stands by has nothing to end.
async fn ends_while_standing_by(shutdown: &CancellationToken, leads: watch::Receiver<bool>) {
    shutdown.cancelled().await;
    if *leads.borrow() {
        std::future::pending::<()>().await;
    }
}
