//! The Helm chart and the plain manifests, asked of a real API server: are they accepted, do they give the same
//! rights, and does the controller's account have no right that the controller does not use.
//!
//! `UPDATE_GENERATED=1` writes the copies of the definition anew.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    path::PathBuf,
    process::{Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use serde::Deserialize;
use serde_json::{Value, json};
use testenv::kubernetes::Kubernetes;

const DEFINITION: &str = "crds/esindexmerges.indexmerge.dev.yaml";
const CHART: &str = "charts/es-index-merge";
const PLAIN: &str = "deploy";

/// Without a cluster to ask, Helm takes itself for one of a long gone version.
const KUBE_VERSION: &str = "v1.36.1";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every document of a YAML text.
fn documents(text: &str) -> Vec<Value> {
    let parsed = serde_yaml_ng::Deserializer::from_str(text).map(|one| Value::deserialize(one).unwrap());
    parsed.filter(|document| !document.is_null()).collect()
}

fn of_kind<'a>(documents: &'a [Value], kind: &str) -> Vec<&'a Value> {
    documents.iter().filter(|document| document["kind"] == kind).collect()
}

fn one<'a>(documents: &'a [Value], kind: &str) -> &'a Value {
    let found = of_kind(documents, kind);
    assert_eq!(found.len(), 1, "{kind}");
    found[0]
}

fn text_of(output: Output) -> Result<String, String> {
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// What Helm makes of the chart with these values (`a.b=c`).
fn helm(release: &str, namespace: &str, values: &[&str]) -> Result<String, String> {
    let program = std::env::var_os("TEST_HELM").filter(|path| !path.is_empty()).map(PathBuf::from);
    let program = program.unwrap_or_else(|| testenv::helm::program().expect("Helm"));
    let mut command = Command::new(program);
    command.args(["template", release]).arg(root().join(CHART));
    command.args(["--namespace", namespace, "--kube-version", KUBE_VERSION]);
    for value in values {
        command.args(["--set", value]);
    }
    text_of(command.output().expect("Helm does not start"))
}

fn chart(release: &str, namespace: &str, values: &[&str]) -> Vec<Value> {
    documents(&helm(release, namespace, values).unwrap_or_else(|error| panic!("{error}")))
}

fn plain() -> Vec<Value> {
    documents(&kubectl(&["kustomize", root().join(PLAIN).to_str().unwrap()], None).unwrap())
}

/// Runs kubectl, with documents on its standard input.
fn kubectl(arguments: &[&str], input: Option<&[Value]>) -> Result<String, String> {
    let kubernetes = Kubernetes::shared().expect("a Kubernetes");
    let mut command = kubernetes.kubectl_command();
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = command.spawn().expect("kubectl does not start");
    let mut stdin = running.stdin.take().unwrap();
    if let Some(documents) = input {
        // A kubectl that ends before it has read everything says why on its standard error.
        let list = json!({"apiVersion": "v1", "kind": "List", "items": documents});
        let _written = stdin.write_all(list.to_string().as_bytes());
    }
    drop(stdin);
    text_of(running.wait_with_output().unwrap())
}

/// The definition, in force.
fn install_definition() {
    let file = root().join(DEFINITION);
    let apply = ["apply", "--server-side", "--force-conflicts", "--field-manager=es-index-merge-tests", "-f"];
    kubectl(&[&apply[..], &[file.to_str().unwrap()]].concat(), None).unwrap();
    let established = ["wait", "--for=condition=established", "--timeout=30s", "crd"];
    kubectl(&[&established[..], &["esindexmerges.indexmerge.dev"]].concat(), None).unwrap();
}

/// A namespace that is deleted with this. No pod is admitted to it that is not restricted.
struct Namespace(String);

impl Namespace {
    fn new() -> Self {
        let name = format!("install-{}", &uuid::Uuid::new_v4().simple().to_string()[..12]);
        let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
        let document =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        kubectl(&["apply", "--server-side", "-f", "-"], Some(&[document])).unwrap();
        Self(name)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = kubectl(&["delete", "namespace", "--wait=false", &self.0], None) {
            eprintln!("the namespace {} stays: {error}", self.0);
        }
    }
}

/// Objects that are deleted with this.
struct Applied(Vec<Value>);

impl Applied {
    fn new(documents: Vec<Value>) -> Self {
        kubectl(&["apply", "--server-side", "-f", "-"], Some(&documents)).unwrap();
        Self(documents)
    }
}

impl Drop for Applied {
    fn drop(&mut self) {
        if let Err(error) =
            kubectl(&["delete", "--ignore-not-found", "--wait=false", "-f", "-"], Some(&self.0))
        {
            eprintln!("something stays: {error}");
        }
    }
}

fn accepted_in_a_dry_run(documents: &[Value]) {
    let dry_run =
        ["apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-f", "-"];
    let answer = kubectl(&dry_run, Some(documents)).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(answer.lines().count(), documents.len(), "{answer}");
}

/// The rules of the roles whose name ends so, in the order in which they are written.
fn rules(documents: &[Value], kind: &str, suffix: &str) -> Vec<Value> {
    let roles = of_kind(documents, kind);
    let named = roles.into_iter().filter(|role| role["metadata"]["name"].as_str().unwrap().ends_with(suffix));
    named.map(|role| role["rules"].clone()).collect()
}

/// The roles of Kubernetes of which this one becomes a part.
fn aggregated_to(role: &Value) -> BTreeSet<String> {
    let labels = role["metadata"]["labels"].as_object().into_iter().flat_map(|labels| labels.keys());
    let names = labels.filter_map(|label| label.strip_prefix("rbac.authorization.k8s.io/aggregate-to-"));
    names.map(str::to_owned).collect()
}

#[test]
fn the_copies_of_the_definition_are_the_generated_one() {
    let generated = read(DEFINITION);
    for copy in ["charts/es-index-merge/files/esindexmerges.indexmerge.dev.yaml", "deploy/crd.yaml"] {
        if std::env::var_os("UPDATE_GENERATED").is_some() {
            fs::write(root().join(copy), &generated).unwrap();
        }
        assert!(
            read(copy) == generated,
            "{copy} differs from {DEFINITION}: run this test with UPDATE_GENERATED=1"
        );
    }
}

#[test]
fn the_chart_installs_the_definition_and_keeps_it_unless_told_otherwise() {
    let generated = documents(&read(DEFINITION)).remove(0);
    let mut kept = one(&chart("es", "ns", &[]), "CustomResourceDefinition").clone();
    let metadata = kept["metadata"].as_object_mut().unwrap();
    assert_eq!(metadata.remove("annotations"), Some(json!({"helm.sh/resource-policy": "keep"})));
    assert_eq!(kept, generated);
    let bare = chart("es", "ns", &["crds.keep=false"]);
    assert_eq!(one(&bare, "CustomResourceDefinition"), &generated);
    let without = chart("es", "ns", &["crds.enabled=false"]);
    assert!(of_kind(&without, "CustomResourceDefinition").is_empty());
}

#[test]
fn the_api_server_accepts_the_chart() {
    install_definition();
    let (own, other) = (Namespace::new(), Namespace::new());
    accepted_in_a_dry_run(&chart("es", &own.0, &[]));
    let watched = format!("watchNamespaces={{{},{}}}", own.0, other.0);
    let everything = [
        watched.as_str(),
        "replicaCount=2",
        "rbac.secretNames={es-source,es-destination}",
        "podDisruptionBudget.enabled=true",
        "networkPolicy.enabled=true",
        "networkPolicy.egress[0].ports[0].port=9200",
        "networkPolicy.ingressFrom[0].namespaceSelector.matchLabels.name=monitoring",
        "imagePullSecrets[0].name=registry",
        "priorityClassName=system-cluster-critical",
        "nodeSelector.disk=ssd",
        "tolerations[0].operator=Exists",
        "topologySpreadConstraints[0].maxSkew=1",
        "topologySpreadConstraints[0].topologyKey=zone",
        "topologySpreadConstraints[0].whenUnsatisfiable=ScheduleAnyway",
        "extraEnv[0].name=TZ",
        "extraEnv[0].value=Europe/Paris",
        "extraVolumes[0].name=authorities",
        "extraVolumes[0].configMap.name=authorities",
        "extraVolumeMounts[0].name=authorities",
        "extraVolumeMounts[0].mountPath=/etc/ssl/certs",
        "podAnnotations.a=b",
        "podLabels.a=b",
        "serviceAccount.annotations.a=b",
        "service.annotations.a=b",
    ];
    accepted_in_a_dry_run(&chart("es", &own.0, &everything));
}

#[test]
fn the_api_server_accepts_the_plain_manifests() {
    install_definition();
    // The namespace that they name may just be going away after another run: a new one in its place.
    let namespace = Namespace::new();
    let mut plain = plain();
    for document in &mut plain {
        let field = if document["kind"] == "Namespace" { "name" } else { "namespace" };
        if field == "name" || document["metadata"]["namespace"].is_string() {
            document["metadata"][field] = namespace.0.clone().into();
        }
    }
    accepted_in_a_dry_run(&plain);
}

#[test]
fn chart_and_plain_manifests_give_the_same_rights_to_the_same_pod() {
    let (chart, plain) = (chart("es-index-merge", "es-index-merge", &[]), plain());
    for (kind, suffix) in [("ClusterRole", "es-index-merge"), ("Role", "-leader")] {
        let of_chart = rules(&chart, kind, suffix);
        assert_eq!(of_chart.len(), 1, "{kind}");
        assert_eq!(of_chart, rules(&plain, kind, suffix), "{kind}");
    }
    for suffix in ["-view", "-edit"] {
        let of_chart = rules(&chart, "ClusterRole", suffix);
        assert_eq!(of_chart.len(), 1, "{suffix}");
        assert_eq!(of_chart, rules(&plain, "ClusterRole", suffix), "{suffix}");
    }
    let for_people = |documents: &[Value]| -> BTreeSet<BTreeSet<String>> {
        of_kind(documents, "ClusterRole").into_iter().map(aggregated_to).collect()
    };
    assert_eq!(for_people(&chart), for_people(&plain));
    for kind in ["ClusterRoleBinding", "RoleBinding"] {
        for part in ["subjects", "roleRef"] {
            assert_eq!(one(&chart, kind)[part], one(&plain, kind)[part], "{kind}");
        }
    }
    let pod = |documents: &[Value]| one(documents, "Deployment")["spec"]["template"]["spec"].clone();
    assert_eq!(pod(&chart), pod(&plain));
}

#[test]
fn with_named_namespaces_no_right_holds_anywhere_else() {
    let everywhere = rules(&chart("es", "own", &[]), "ClusterRole", "es-index-merge");
    let named = chart("es", "own", &["watchNamespaces={a,b,a}"]);
    assert!(of_kind(&named, "ClusterRole").into_iter().all(|role| !aggregated_to(role).is_empty()));
    assert!(of_kind(&named, "ClusterRoleBinding").is_empty());
    let bare = chart("es", "own", &["watchNamespaces={a,b}", "rbac.aggregateRoles=false"]);
    assert!(of_kind(&bare, "ClusterRole").is_empty());
    let roles = of_kind(&named, "Role");
    for namespace in ["a", "b"] {
        let here: Vec<_> = roles.iter().filter(|role| role["metadata"]["namespace"] == namespace).collect();
        assert_eq!(here.len(), 1, "{namespace}");
        assert_eq!(here[0]["rules"], everywhere[0], "{namespace}");
    }
    assert_eq!(roles.len(), 3, "one for each namespace, and one for the lease");
    let container = one(&named, "Deployment")["spec"]["template"]["spec"]["containers"][0].clone();
    let watched = json!({"name": "WATCH_NAMESPACES", "value": "a,b"});
    assert!(container["env"].as_array().unwrap().contains(&watched), "{container}");
}

#[test]
fn each_release_has_a_lease_of_its_own_and_the_right_to_it() {
    for (release, name) in [("team-a", "team-a-es-index-merge"), ("es-index-merge", "es-index-merge")] {
        let chart = chart(release, "shared", &[]);
        let container = one(&chart, "Deployment")["spec"]["template"]["spec"]["containers"][0].clone();
        let lease = json!({"name": "LEASE_NAME", "value": name});
        assert!(container["env"].as_array().unwrap().contains(&lease), "{container}");
        let rules = rules(&chart, "Role", "-leader").remove(0);
        assert_eq!(rules[0]["resourceNames"], json!([name]));
    }
}

#[test]
fn values_that_mean_nothing_are_refused_with_their_name() {
    for (value, named) in [
        ("replicaCount=two", "replicaCount"),
        ("watchNamespaces={Team_A}", "watchNamespaces"),
        ("log.format=xml", "log"),
        ("image.digest=latest", "digest"),
        ("serviceMonitor.intervall=1m", "intervall"),
        ("prometheusRule.enabeld=true", "enabeld"),
        ("extraEnv[0].name=RUST_LOG", "extraEnv"),
        ("extraEnv[0].name=LEASE_NAME", "extraEnv"),
        ("extraVolumeMounts[0].name=authorities", "mountPath"),
        ("podDisruptionBudget.maxUnavailable=some", "maxUnavailable"),
        ("listenAddress=0.0.0.0:9090", "listenAddress"),
        ("nonsense=1", "nonsense"),
    ] {
        let refused = helm("es", "ns", &[value]).expect_err(value);
        assert!(refused.contains(named), "{value}: {refused}");
    }
    let refused = helm("es", "ns", &["serviceMonitor.enabled=true", "service.enabled=false"]);
    assert!(refused.unwrap_err().contains("needs service.enabled"));
    let refused = helm("es", "ns", &["serviceAccount.create=false"]);
    assert!(refused.unwrap_err().contains("serviceAccount.name is needed"));
    let named = chart("es", "ns", &["serviceAccount.create=false", "serviceAccount.name=mine"]);
    assert_eq!(one(&named, "Deployment")["spec"]["template"]["spec"]["serviceAccountName"], "mine");
    assert_eq!(of_kind(&chart("es", "ns", &["serviceMonitor.enabled=true"]), "ServiceMonitor").len(), 1);
}

#[test]
fn the_alerts_of_the_chart_are_those_of_the_documentation() {
    assert!(of_kind(&chart("es", "ns", &[]), "PrometheusRule").is_empty());
    let values = ["prometheusRule.enabled=true", "prometheusRule.labels.team=a"];
    let documents = chart("es", "ns", &values);
    let rule = one(&documents, "PrometheusRule");
    assert_eq!(rule["metadata"]["labels"]["team"], "a");
    let explained = read("docs/metrics.md");
    let alerts = rule["spec"]["groups"][0]["rules"].as_array().unwrap();
    assert_eq!(alerts.len(), 4);
    for alert in alerts {
        let expression = alert["expr"].as_str().unwrap();
        assert!(explained.contains(&format!("expr: {expression}\n")), "{expression}");
        let summary = alert["annotations"]["summary"].as_str().unwrap();
        // That nobody leads is said of no merge.
        let is_about_a_merge = expression.starts_with("max by (namespace, name");
        assert_eq!(
            summary.contains("{{ $labels.namespace }}/{{ $labels.name }}"),
            is_about_a_merge,
            "{summary}"
        );
    }
}

#[test]
fn what_argo_cd_is_given_speaks_of_this_kind_and_of_this_chart() {
    let definition = documents(&read(DEFINITION)).remove(0);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let (group, kind) = (text(&definition["spec"]["group"]), text(&definition["spec"]["names"]["kind"]));
    let settings = documents(&read("deploy/argocd/argocd-cm.yaml")).remove(0);
    let check = text(&settings["data"][format!("resource.customizations.health.{group}_{kind}")]);
    for condition in ["Ready", "Reconciling", "Stalled", "Failing"] {
        assert!(check.contains(&format!("holds(\"{condition}\")")), "{condition}");
    }
    let applications = documents(&read("deploy/argocd/application.yaml"));
    assert_eq!(applications[0]["spec"]["source"]["path"], CHART);
    let values = &applications[0]["spec"]["source"]["helm"]["valuesObject"];
    let repository = format!("image.repository={}", text(&values["image"]["repository"]));
    let rendered = chart("es", "ns", &[&repository]);
    let container = &one(&rendered, "Deployment")["spec"]["template"]["spec"]["containers"][0];
    assert!(text(&container["image"]).starts_with("registry.example.com/es-index-merge:"), "{container}");
}

/// What an account may do in a namespace, according to the API server: `verb group/resource names`.
fn rights(account: &str, namespace: &str) -> BTreeSet<String> {
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": namespace}
    });
    // Without validation, which would read the schemas as that account.
    let create = ["create", "-o", "json", "--validate=false", "--as", account, "-f", "-"];
    let answer = kubectl(&create, Some(&[review])).unwrap();
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(answer["status"]["incomplete"], false, "{answer}");
    let mut rights = BTreeSet::new();
    for rule in answer["status"]["resourceRules"].as_array().unwrap() {
        for (verb, group, resource) in product(&rule["verbs"], &rule["apiGroups"], &rule["resources"]) {
            let names = if rule["resourceNames"].is_null() {
                String::new()
            } else {
                rule["resourceNames"].to_string()
            };
            rights.insert(format!("{verb} {group}/{resource} {names}").trim_end().to_owned());
        }
    }
    rights
}

fn product<'a>(
    verbs: &'a Value,
    groups: &'a Value,
    resources: &'a Value,
) -> Vec<(&'a str, &'a str, &'a str)> {
    let texts = |list: &'a Value| list.as_array().unwrap().iter().map(|text| text.as_str().unwrap());
    let pairs = texts(groups).flat_map(|group| texts(resources).map(move |resource| (group, resource)));
    pairs.flat_map(|(group, resource)| texts(verbs).map(move |verb| (verb, group, resource))).collect()
}

const SERVED: [&str; 8] = [
    "create events.k8s.io/events",
    "get /secrets",
    "list indexmerge.dev/esindexmerges",
    "patch events.k8s.io/events",
    "patch indexmerge.dev/esindexmerges",
    "patch indexmerge.dev/esindexmerges/status",
    "watch indexmerge.dev/esindexmerges",
    // Only in the controller's own namespace:
    "create coordination.k8s.io/leases",
];

/// Waits until these rights are found: the API server learns of roles by watching, a moment after they are stored.
fn until_found(expected: &BTreeSet<String>, find: impl Fn() -> BTreeSet<String>) {
    let begun = Instant::now();
    loop {
        let found = find();
        if found == *expected {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{found:?} instead of {expected:?}");
        sleep(Duration::from_millis(200));
    }
}

#[test]
fn the_account_of_the_controller_has_no_right_that_it_does_not_use() {
    install_definition();
    let (own, other) = (Namespace::new(), Namespace::new());
    let release = own.0.clone();
    let mut documents = chart("es", &own.0, &[&format!("fullnameOverride={release}")]);
    let deployment = one(&documents, "Deployment").clone();
    documents.retain(|document| {
        let kind = document["kind"].as_str().unwrap();
        kind == "ServiceAccount" || kind.contains("Role")
    });
    let _applied = Applied::new(documents);
    let account = format!("system:serviceaccount:{}:{release}", own.0);
    let nobody = format!("system:serviceaccount:{}:nobody", own.0);

    // Every account may ask who it is; what is beyond that comes from us.
    let elsewhere = SERVED[..7].iter().map(ToString::to_string).collect();
    let beside = |namespace| &rights(&account, namespace) - &rights(&nobody, namespace);
    until_found(&elsewhere, || beside(&other.0));
    let mut expected: BTreeSet<String> = SERVED.iter().map(ToString::to_string).collect();
    for verb in ["get", "update"] {
        expected.insert(format!("{verb} coordination.k8s.io/leases [\"{release}\"]"));
    }
    until_found(&expected, || beside(&own.0));

    // The same in the words of a person who asks.
    for refused in [
        ["list", "secrets"],
        ["watch", "secrets"],
        ["delete", "esindexmerges.indexmerge.dev"],
        ["create", "esindexmerges.indexmerge.dev"],
        ["update", "esindexmerges.indexmerge.dev"],
        ["create", "pods"],
        ["get", "configmaps"],
        ["delete", "leases.coordination.k8s.io"],
    ] {
        let asked = [&["auth", "can-i"][..], &refused, &["--as", &account, "-n", &own.0]].concat();
        // kubectl says no by its exit code.
        assert!(kubectl(&asked, None).is_err(), "{refused:?}");
    }
    let listed = kubectl(&["get", "secrets", "--as", &account, "-n", &own.0], None);
    assert!(listed.unwrap_err().contains("Forbidden"));

    // And its pod is admitted where only restricted pods are.
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "controller", "namespace": own.0},
        "spec": deployment["spec"]["template"]["spec"],
    });
    accepted_in_a_dry_run(&[pod]);
}

#[test]
fn people_with_the_roles_of_kubernetes_see_and_make_merges() {
    install_definition();
    let namespace = Namespace::new();
    let mut documents = chart("es", &namespace.0, &[&format!("fullnameOverride={}", namespace.0)]);
    documents.retain(|document| !aggregated_to(document).is_empty());
    assert_eq!(documents.len(), 2);
    let roles = ["view", "edit", "admin"];
    let person = |role: &str| format!("{role}-{}", namespace.0);
    documents.extend(roles.map(|role| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"name": role, "namespace": namespace.0},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": person(role)}],
        })
    }));
    let _applied = Applied::new(documents);

    for role in roles {
        let mut expected = vec!["get", "list", "watch"];
        if role != "view" {
            expected.extend(["create", "update", "patch", "delete"]);
        }
        let expected: BTreeSet<String> =
            expected.into_iter().map(|verb| format!("{verb} indexmerge.dev/esindexmerges")).collect();
        // A controller of Kubernetes puts the roles together.
        until_found(&expected, || {
            let mut found = rights(&person(role), &namespace.0);
            found.retain(|right| right.contains("indexmerge.dev"));
            found
        });
    }
}
