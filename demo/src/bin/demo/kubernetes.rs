//! What the demo does with kubectl: the custom resource's definition, rights, secrets, a token.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use testenv::kubernetes::Access;

use crate::progress::say;
use crate::servers::Servers;

/// Where the merge and its secrets live.
pub const NAMESPACE: &str = "rag";

/// The service account that the controller runs as.
#[derive(Debug, Clone)]
pub struct Account {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// Installs the definition that `es-index-merge crd` prints, and waits until the apiserver serves it.
pub fn install_definition(access: &Access, program: &Path) -> Result<()> {
    let crd = std::process::Command::new(program).arg("crd").output().with_context(|| {
        format!("cannot run {}; build it with `cargo build --release`", program.display())
    })?;
    if !crd.status.success() {
        bail!("`{} crd` failed: {}", program.display(), String::from_utf8_lossy(&crd.stderr).trim());
    }
    apply(access, &crd.stdout, &[])?;
    access.kubectl(&[
        "wait",
        "--for=condition=Established",
        "--timeout=60s",
        "crd/esindexmerges.indexmerge.dev",
    ])?;
    Ok(())
}

/// Applies the service account and its rights as they are shipped in `deploy/`; the Deployment is left out,
/// because here the controller runs as a process.
pub fn install_rights(access: &Access, checkout: &Path) -> Result<Account> {
    let wanted = ["Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"];
    let mut objects = shipped_objects(access, &checkout.join("deploy"))?;
    objects.retain(|object| object["kind"].as_str().is_some_and(|kind| wanted.contains(&kind)));
    let account = objects
        .iter()
        .find(|object| object["kind"] == "ServiceAccount")
        .context("deploy/ holds no ServiceAccount")?;
    let account = Account {
        namespace: account["metadata"]["namespace"].as_str().unwrap_or("default").to_owned(),
        name: account["metadata"]["name"].as_str().context("the service account has no name")?.to_owned(),
    };
    create_namespace(access, &account.namespace)?;
    apply(access, json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string().as_bytes(), &[])?;
    Ok(account)
}

/// Every object of `deploy/`, through kustomize where there is one.
fn shipped_objects(access: &Access, deploy: &Path) -> Result<Vec<Value>> {
    let kustomization = [deploy.join("kustomize"), deploy.join("kustomize/base"), deploy.to_owned()]
        .into_iter()
        .find(|folder| folder.join("kustomization.yaml").is_file());
    // `create --dry-run=client` reads any form and prints JSON: no YAML reader of our own is needed.
    let arguments = |flag: &str, path: &Path| {
        ["create", "--dry-run=client", "--validate=false", "-o", "json", flag]
            .map(ToOwned::to_owned)
            .into_iter()
            .chain([path.display().to_string()])
            .collect::<Vec<_>>()
    };
    let arguments = match kustomization {
        Some(folder) => arguments("-k", &folder),
        None => [arguments("-f", deploy), vec!["-R".to_owned()]].concat(),
    };
    let text = access.kubectl(&arguments.iter().map(String::as_str).collect::<Vec<_>>())?;
    // Several objects come one after another, or as lists.
    let mut objects = Vec::new();
    for object in serde_json::Deserializer::from_str(&text).into_iter::<Value>() {
        let object = object.context("kubectl prints no JSON")?;
        match object["items"].as_array() {
            Some(items) => objects.extend(items.iter().cloned()),
            None => objects.push(object),
        }
    }
    Ok(objects)
}

/// Creates the namespace of the merge and the secrets that the example names.
pub fn create_secrets(access: &Access, servers: &Servers) -> Result<()> {
    create_namespace(access, NAMESPACE)?;
    let secret = |name: &str, data: Value| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data});
    let login = |server: &testenv::elasticsearch::Access| json!({"username": server.username, "password": server.password});
    let url = servers.database_url()?;
    // As the application's configuration has it.
    let url = url.replacen("postgresql://", "postgresql+asyncpg://", 1);
    let mut items = vec![
        secret("opengatellm-postgres", json!({ "url": url })),
        secret("es-source", login(&servers.source)),
        secret("es-destination", login(&servers.destination)),
    ];
    for (name, server) in [("es-ca", &servers.source), ("es-destination-ca", &servers.destination)] {
        if let Some(file) = &server.ca {
            let pem =
                std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
            items.push(secret(name, json!({ "ca.crt": pem })));
        }
    }
    // Through standard input: a secret does not belong into a list of arguments or a file.
    apply(
        access,
        json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string().as_bytes(),
        &["-n", NAMESPACE],
    )
}

fn create_namespace(access: &Access, name: &str) -> Result<()> {
    apply(
        access,
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}).to_string().as_bytes(),
        &[],
    )
}

/// `kubectl apply --server-side` of what is given.
pub fn apply(access: &Access, objects: &[u8], arguments: &[&str]) -> Result<()> {
    let mut child = access
        .kubectl_command()
        .args(["apply", "--server-side", "--force-conflicts", "-f", "-"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start kubectl")?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(objects).context("kubectl does not listen")?;
    }
    let output = child.wait_with_output().context("kubectl")?;
    if !output.status.success() {
        bail!("kubectl apply: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        say(&format!("  {line}"));
    }
    Ok(())
}

/// A kubeconfig with a token of the service account, so that a right that is missing shows.
pub fn write_kubeconfig(access: &Access, account: &Account, folder: &Path) -> Result<PathBuf> {
    let token =
        access.kubectl(&["create", "token", &account.name, "-n", &account.namespace, "--duration=24h"])?;
    let view = access.kubectl(&["config", "view", "--raw", "--minify", "--flatten", "-o", "json"])?;
    let view: Value = serde_json::from_str(&view).context("the kubeconfig")?;
    let cluster = view["clusters"][0]["cluster"].clone();
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "controller",
        "clusters": [{"name": "cluster", "cluster": cluster}],
        "users": [{"name": "controller", "user": {"token": token.trim()}}],
        "contexts": [{"name": "controller", "context": {"cluster": "cluster", "user": "controller", "namespace": account.namespace}}],
    });
    let file = folder.join("controller.kubeconfig");
    testenv::places::write_private(&file, config.to_string().as_bytes())?;
    Ok(file)
}
