//! What the operator was told in confidence is found nowhere: not in what others may read in its namespace, not in its log
//! with every line switched on, not in its metrics, its arguments or its environment, not in the state database.

use demo::seed::odd;

use crate::confided::{Confided, SOURCE, WRONG, state};
use crate::hardship::secret;
use crate::odd_data;
use crate::operator::{LEASE, NAME, Operator, PATIENCE, SOON};
use crate::scene::Flavor;

/// Everything in a namespace that a merge or a controller touches, but for the Secrets.
const OBJECTS: &str = "esim,events,configmaps,leases";

/// The secret of a cluster with these keys in the place of user and password.
fn with_login(secret: &str, keys: &[(&str, &str)]) -> String {
    let is_login = |line: &str| line.starts_with("  username:") || line.starts_with("  password:");
    let others: Vec<&str> = secret.lines().filter(|line| !is_login(line)).collect();
    let login: Vec<String> = keys.iter().map(|(key, value)| format!("\n  {key}: \"{value}\"")).collect();
    others.join("\n").replacen("stringData:", &format!("stringData:{}", login.concat()), 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_the_objects_the_log_the_metrics_or_the_state() {
    let mut operator = Operator::new(Flavor::V8, Flavor::V9).await;
    operator.scene.fill(&odd::Options { documents: 3, chunks: 5, ..odd_data(&operator.scene) }).await;
    let confided = Confided::to(&operator.scene).await;
    let namespace = operator.namespace.clone();
    let lease = ["--leader-election", "true", "--lease-namespace", &namespace, "--lease-name", LEASE];
    operator.start_with("trace", &lease);
    let manifest = operator.scene.manifest(8).replace(&confided.administrator, &confided.url());
    let (source, destination) = (secret(&manifest, "source"), secret(&manifest, "destination"));
    let login =
        |password| with_login(&source, &[("username", confided.name.as_str()), ("password", password)]);
    let manifest = manifest
        .replace(&destination, &with_login(&destination, &[("api_key", confided.key.as_str())]))
        .replace(&source, &login(WRONG));
    operator.apply(&manifest).await;
    operator.until_reason(NAME, "ChecksFailed", SOON).await;
    operator.apply(&login(SOURCE)).await;
    operator.until_phase(NAME, "Completed", PATIENCE).await;

    let every_field = ["get", OBJECTS, "-n", &namespace, "-o", "json", "--show-managed-fields"];
    let objects = operator.kubectl(&every_field, "").await;
    for kind in ["EsIndexMerge", "Event", "Lease"] {
        assert!(objects.contains(&format!("\"kind\": \"{kind}\"")), "no {kind}: {objects}");
    }
    confided.assert_untold("the objects", &objects);
    for page in ["/metrics", "/readyz"] {
        confided.assert_untold(page, &operator.page(page).await);
    }
    for file in ["cmdline", "environ"] {
        let text = std::fs::read(format!("/proc/{}/{file}", operator.pid())).unwrap();
        confided.assert_untold(file, &String::from_utf8_lossy(&text));
    }
    confided.assert_untold("the state", &state(&operator.scene).await);
    let log = operator.log_text();
    assert!(log.contains("TRACE"), "not every line is logged");
    confided.assert_untold("the log", &log);
    operator.kill_9().await;
    confided.forget(&operator.scene).await;
}
