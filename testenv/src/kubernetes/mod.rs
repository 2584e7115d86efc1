//! A real Kubernetes on 127.0.0.1: etcd, kube-apiserver (with Node and RBAC), controller-manager, scheduler.
//!
//! There is no node: pods stay pending. The kubeconfig is that of a cluster administrator.

mod build;

use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::http::{Http, Identity};
use crate::pki::{self, Pair, Purpose};
use crate::prerequisites::find_program;
use crate::process::{Launch, Process};
use crate::progress::{Step, say};
use crate::run::Run;
use crate::{Part, ready};

pub use build::{VERSION, present, program};

/// Long: it comes up while everything is compiled.
const READY: Duration = Duration::from_mins(10);
const REQUEST: Duration = Duration::from_secs(10);

/// The programs, in the order in which they are started.
const PROGRAMS: [&str; 4] = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"];

/// How to reach it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Access {
    /// A kubeconfig file of a cluster administrator, with all certificates in it.
    pub kubeconfig: PathBuf,
    /// The program kubectl, alone in its folder.
    pub kubectl: PathBuf,
    /// `https://127.0.0.1:PORT`; not of a cluster that the environment names.
    pub url: Option<String>,
    /// The certificate of the CA, a PEM file; not of a cluster that the environment names.
    pub ca: Option<PathBuf>,
}

impl Access {
    /// The cluster that `KUBECONFIG` names, with the kubectl of the `PATH` or else one built here.
    pub fn from_environment() -> Result<Option<Self>> {
        let Some(kubeconfig) = std::env::var_os("KUBECONFIG").filter(|value| !value.is_empty()) else {
            return Ok(None);
        };
        let kubectl = if let Some(kubectl) = find_program("kubectl") {
            kubectl
        } else {
            // Built as one binary with the rest, which becomes kubectl by the name it is called by.
            let program = program()?;
            let link = program.with_file_name("kubectl");
            if !link.exists() {
                std::os::unix::fs::symlink(&program, &link)?;
            }
            link
        };
        Ok(Some(Self { kubeconfig: kubeconfig.into(), kubectl, url: None, ca: None }))
    }

    /// The variables under which tests and people find it; `PATH` gets the folder of kubectl.
    #[must_use]
    pub fn variables(&self) -> Vec<(String, String)> {
        vec![
            ("KUBECONFIG".to_owned(), self.kubeconfig.display().to_string()),
            ("TEST_KUBECTL".to_owned(), self.kubectl.display().to_string()),
        ]
    }

    /// A command which runs kubectl against this cluster.
    #[must_use]
    pub fn kubectl_command(&self) -> Command {
        let mut command = Command::new(&self.kubectl);
        command.env("KUBECONFIG", &self.kubeconfig);
        command
    }

    /// Runs kubectl; gives what it prints.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let output = self.kubectl_command().args(arguments).output().context("cannot start kubectl")?;
        if !output.status.success() {
            let reason = String::from_utf8_lossy(&output.stderr);
            bail!("kubectl {}: {}", arguments.join(" "), reason.trim());
        }
        Ok(String::from_utf8(output.stdout)?)
    }
}

/// A cluster that is ready. One that was started here ends when this is dropped, or when the process dies.
#[derive(Debug)]
pub struct Kubernetes {
    access: Access,
    processes: Vec<Process>,
    run: Option<Arc<Run>>,
}

impl Kubernetes {
    /// Starts a private one.
    pub fn start() -> Result<Self> {
        let run = Run::private()?;
        let (access, processes) = start_in(&run)?;
        Ok(Self { access, processes, run: Some(run) })
    }

    /// The one which all tests share: that of the environment, or of `testenv up`, or else one of this process.
    /// Make a namespace of your own in it.
    pub fn shared() -> Result<&'static Self> {
        static SHARED: OnceLock<Kubernetes> = OnceLock::new();
        static START: Mutex<()> = Mutex::new(());
        crate::once(&SHARED, &START, || match crate::running(Part::Kubernetes, Access::from_environment)? {
            Some(access) => Ok(Self { access, processes: Vec::new(), run: None }),
            None => Self::start(),
        })
    }

    /// The folder of its logs and data, if it was started here.
    pub fn folder(&self) -> Option<&Path> {
        self.run.as_deref().map(Run::folder)
    }

    /// Kills one of its programs (`etcd`, `kube-apiserver`, `kube-controller-manager`, `kube-scheduler`).
    pub fn kill_9(&self, program: &str) -> Result<()> {
        self.own(program)?.kill_9()
    }

    /// Starts one of its programs again, on the same ports and data, without waiting: see [`Kubernetes::wait`].
    pub fn launch_again(&self, program: &str) -> Result<()> {
        self.own(program)?.restart()
    }

    /// Starts one of its programs again and waits until the cluster answers.
    pub fn restart(&self, program: &str) -> Result<()> {
        self.launch_again(program)?;
        self.wait()
    }

    /// Waits until the apiserver answers: the programs that ask it can then be launched again.
    pub fn wait_for_apiserver(&self) -> Result<()> {
        let folder = self.folder().context("this Kubernetes is shared")?.join(Part::Kubernetes.as_str());
        wait_for_apiserver(&self.access, &folder, &self.processes)
    }

    /// Waits until the cluster answers and its controllers work. An error if one of its programs has ended.
    pub fn wait(&self) -> Result<()> {
        let folder = self.folder().context("this Kubernetes is shared")?.join(Part::Kubernetes.as_str());
        wait(&self.access, &folder, &self.processes)
    }

    /// Freezes one of its programs.
    pub fn pause(&self, program: &str) -> Result<()> {
        self.own(program)?.pause()
    }

    /// Lets one of its programs go on.
    pub fn resume(&self, program: &str) -> Result<()> {
        self.own(program)?.resume()
    }

    /// Ends all its programs, the last one first.
    pub fn stop(&self) -> Result<()> {
        self.processes.iter().rev().try_for_each(Process::stop)
    }

    fn own(&self, program: &str) -> Result<&Process> {
        if self.processes.is_empty() {
            bail!("this Kubernetes is shared: start a private one to disturb it");
        }
        let found = self.processes.iter().find(|process| process.name().ends_with(&format!("-{program}")));
        found.with_context(|| format!("{program:?} is none of {}", PROGRAMS.join(", ")))
    }
}

impl Drop for Kubernetes {
    fn drop(&mut self) {
        // etcd last: the others complain at length when it goes first.
        while let Some(process) = self.processes.pop() {
            drop(process);
        }
    }
}

impl Deref for Kubernetes {
    type Target = Access;
    fn deref(&self) -> &Access {
        &self.access
    }
}

/// Starts one in a run, and waits until it answers.
pub(crate) fn start_in(run: &Run) -> Result<(Access, Vec<Process>)> {
    let what = Part::Kubernetes.as_str();
    let binary = program()?;
    let step = Step::begin(what, &format!("starting {VERSION}"));
    let folder = run.part_folder(Part::Kubernetes)?;
    let (launches, access) = prepare(run, &folder, &binary)?;
    let mut processes = Vec::new();
    for launch in launches {
        if asks_the_apiserver(&launch.name) {
            wait_for_apiserver(&access, &folder, &processes)?;
        }
        processes.push(Process::start(launch, run.folder(), run.owned())?);
    }
    wait(&access, &folder, &processes)?;
    step.end(&format!("ready at {}", access.url.as_deref().unwrap_or_default()));
    Ok((access, processes))
}

/// Programs that end when the apiserver is not healthy within ten seconds, which a busy machine may not manage: they
/// are started after it. (The apiserver itself waits for etcd.)
fn asks_the_apiserver(name: &str) -> bool {
    ["kube-controller-manager", "kube-scheduler"].iter().any(|program| name.ends_with(program))
}

fn wait_for_apiserver(access: &Access, folder: &Path, processes: &[Process]) -> Result<()> {
    let needed = processes.iter().filter(|process| !asks_the_apiserver(process.name()));
    ask_until_ready(access, folder, needed, &["/readyz"])
}

/// Until the apiserver is ready, RBAC is set up and the controllers work (each namespace gets a service account).
fn wait(access: &Access, folder: &Path, processes: &[Process]) -> Result<()> {
    let paths = ["/readyz", "/api/v1/namespaces/default/serviceaccounts/default"];
    ask_until_ready(access, folder, processes.iter(), &paths)
}

fn ask_until_ready<'a>(
    access: &Access,
    folder: &Path,
    processes: impl Iterator<Item = &'a Process>,
    paths: &[&str],
) -> Result<()> {
    let url = access.url.as_deref().context("no URL")?;
    let (certificate, key) = (folder.join("pki/admin.crt"), folder.join("pki/admin.key"));
    let http = Http::new(url, access.ca.as_deref(), &Identity::Certificate(&certificate, &key), REQUEST)?;
    let all: Vec<&Process> = processes.collect();
    ready::wait(Part::Kubernetes.as_str(), &all, READY, || {
        for path in paths {
            let (status, answer) = http.call("GET", path, None)?;
            if status != 200 {
                bail!("{path} answers {status}: {answer}");
            }
        }
        Ok(())
    })
}

/// Certificates, kubeconfig, kubectl and the four command lines.
fn prepare(run: &Run, folder: &Path, binary: &Path) -> Result<(Vec<Launch>, Access)> {
    let (pki_folder, bin, data) = (folder.join("pki"), folder.join("bin"), folder.join("etcd"));
    for made in [&pki_folder, &bin] {
        fs::create_dir(made)?;
    }
    let authority = run.authority()?;
    let ca = authority.certificate();
    let names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"];
    let addresses = [[10, 96, 0, 1].into()];
    let server =
        authority.issue(&pki_folder, "apiserver", "kube-apiserver", Purpose::Server(&names, &addresses))?;
    let admin =
        authority.issue(&pki_folder, "admin", "admin", Purpose::Client { organisation: "system:masters" })?;
    let (signing, verifying) = pki::signing_key(&pki_folder, "service-accounts")?;
    let (etcd, peer, secure) = (ready::free_port()?, ready::free_port()?, ready::free_port()?);
    let url = format!("https://127.0.0.1:{secure}");
    let kubeconfig = folder.join("kubeconfig");
    write_kubeconfig(&kubeconfig, &url, &ca, &admin)?;
    let kubectl = bin.join("kubectl");
    std::os::unix::fs::symlink(binary, &kubectl)?;
    let etcd = format!("http://127.0.0.1:{etcd}");
    let peer = format!("http://127.0.0.1:{peer}");
    let path = |path: &Path| path.display().to_string();
    let arguments: [Vec<String>; 4] = [
        vec![
            format!("--data-dir={}", path(&data)),
            format!("--listen-client-urls={etcd}"),
            format!("--advertise-client-urls={etcd}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=default={peer}"),
            "--unsafe-no-fsync".to_owned(),
        ],
        vec![
            format!("--etcd-servers={etcd}"),
            format!("--secure-port={secure}"),
            "--bind-address=127.0.0.1".to_owned(),
            "--advertise-address=127.0.0.1".to_owned(),
            format!("--tls-cert-file={}", path(&server.certificate)),
            format!("--tls-private-key-file={}", path(&server.key)),
            format!("--client-ca-file={}", path(&ca)),
            format!("--service-account-key-file={}", path(&verifying)),
            format!("--service-account-signing-key-file={}", path(&signing)),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
            "--allow-privileged=true".to_owned(),
        ],
        vec![
            format!("--kubeconfig={}", path(&kubeconfig)),
            format!("--service-account-private-key-file={}", path(&signing)),
            format!("--root-ca-file={}", path(&ca)),
            "--use-service-account-credentials".to_owned(),
            "--leader-elect=false".to_owned(),
            "--secure-port=0".to_owned(),
        ],
        vec![
            format!("--kubeconfig={}", path(&kubeconfig)),
            "--leader-elect=false".to_owned(),
            "--secure-port=0".to_owned(),
        ],
    ];
    let launches = PROGRAMS
        .iter()
        .zip(arguments)
        .map(|(program, arguments)| Launch {
            name: format!("{}-{program}", Part::Kubernetes.as_str()),
            program: binary.to_owned(),
            arguments: [vec![(*program).to_owned()], arguments].concat(),
            environment: std::collections::BTreeMap::new(),
            folder: folder.to_owned(),
            user: None,
            log: folder.join(format!("{program}.log")),
            interrupt: false,
        })
        .collect();
    Ok((launches, Access { kubeconfig, kubectl, url: Some(url), ca: Some(ca) }))
}

/// JSON is YAML; everything is inside, so that the file can be moved.
fn write_kubeconfig(file: &Path, url: &str, ca: &Path, user: &Pair) -> Result<()> {
    let data = |path: &Path| -> Result<String> {
        let content = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(base64::engine::general_purpose::STANDARD.encode(content))
    };
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "testenv", "cluster": {"server": url, "certificate-authority-data": data(ca)?}}],
        "users": [{"name": "admin", "user": {
            "client-certificate-data": data(&user.certificate)?,
            "client-key-data": data(&user.key)?,
        }}],
        "contexts": [{"name": "testenv", "context": {"cluster": "testenv", "user": "admin"}}],
        "current-context": "testenv",
    });
    crate::places::write_private(file, &serde_json::to_vec_pretty(&config)?)?;
    say(Part::Kubernetes.as_str(), &format!("kubeconfig: {}", file.display()));
    Ok(())
}
