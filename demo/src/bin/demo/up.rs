//! The whole demo, from nothing to a checked merge.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use demo::checker::{self, Contract};
use demo::seed::corpus::{self, Page};
use demo::seed::library;
use testenv::{Env, Part, places};

use crate::controller::{self, Controller};
use crate::kubernetes::{self, NAMESPACE};
use crate::progress::say;
use crate::servers::{Flavor, Servers};
use crate::{ask, follow, manifest};

/// The merged index, as in the example.
const INDEX: &str = "opengatellm";

/// Brings everything up, merges, asks and checks. Run again, it goes on where it was.
pub async fn up(name: &str, source: Flavor, destination: Flavor, database: &str) -> Result<ExitCode> {
    let program = controller::program()?;
    let checkout = checkout()?;
    // 1. Servers, and meanwhile the text.
    let (env, pages) = bring_up(name, source, destination).await?;
    let servers = Servers::find(name, source, destination, database).await?;
    let access = env.kubernetes.context("the harness started no Kubernetes")?;
    let run = places::runs()?.join(name);
    let folder = controller::folder(&run)?;
    // 2. The old layout, and meanwhile the definition, rights and secrets.
    let options = library::Options::default();
    let (seeded, prepared) = tokio::join!(seed(&servers, &folder, pages, &options), async {
        tokio::task::block_in_place(|| {
            kubernetes::install_definition(&access, &program)?;
            let account = kubernetes::install_rights(&access, &checkout)?;
            kubernetes::create_secrets(&access, &servers)?;
            kubernetes::write_kubeconfig(&access, &account, &folder)
        })
    });
    seeded?;
    let kubeconfig = prepared?;
    // 3. The controller, with a token of its service account.
    let mut controller = Controller::start(&program, &kubeconfig, &run)?;
    say(&format!("the controller runs (process {})", controller.pid().unwrap_or_default()));
    // 4. The merge.
    tokio::task::block_in_place(|| manifest::apply(&access, &servers, &checkout, &folder))?;
    say("kubectl get esim -w");
    follow::follow(&access, &mut controller).await?;
    say("the merge is completed");
    // 5. What it is good for.
    ask::ask(&servers, INDEX, &[]).await?;
    // 6. Whether it is true.
    say("every chunk is compared with its source, by a checker of its own");
    let code = check(&servers, options.dimensions).await?;
    farewell(name, &access, &servers, &folder);
    Ok(code)
}

async fn bring_up(name: &str, source: Flavor, destination: Flavor) -> Result<(Env, Vec<Page>)> {
    let mut parts = vec![source.part(), Part::Postgres, Part::Kubernetes];
    if destination != source {
        parts.push(destination.part());
    }
    let name = name.to_owned();
    let servers = tokio::task::spawn_blocking(move || Env::up(&name, &parts));
    let pages = tokio::task::spawn_blocking(|| corpus::pages(&corpus::PACKAGES));
    // Both to their end, so that a failure of one does not leave the other half done.
    let (servers, pages) = tokio::join!(servers, pages);
    let pages = pages.context("reading the manual pages")??;
    let env = servers.context("starting the servers")??;
    say(&format!("servers are up, {} manual pages are read", pages.len()));
    Ok((env, pages))
}

/// Fills the source once; a run that was cut off in between starts anew.
async fn seed(servers: &Servers, folder: &Path, pages: Vec<Page>, options: &library::Options) -> Result<()> {
    let done = folder.join("seeded");
    if done.is_file() {
        say("the source is filled already");
        return Ok(());
    }
    if !servers.create_database().await? {
        bail!(
            "the database {} exists, but an earlier run did not finish filling it; run `demo down` and try again",
            servers.database
        );
    }
    let (source, _) = servers.clusters().await?;
    let filled =
        library::fill(&source, &servers.pool().await?, library::arrange(pages, options)?, options, &say)
            .await?;
    say(&format!(
        "{} collections hold {} documents and {} chunks",
        filled.collections, filled.documents, filled.chunks
    ));
    std::fs::write(&done, b"").with_context(|| format!("cannot write {}", done.display()))
}

async fn check(servers: &Servers, dimensions: usize) -> Result<ExitCode> {
    let options = checker::Options {
        index: INDEX.to_owned(),
        contract: Contract::OpenGateLLM,
        dimensions,
        include: Vec::new(),
        exclude: Vec::new(),
    };
    let (source, destination) = servers.clusters().await?;
    let verdict = checker::check(&source, &destination, &servers.pool().await?, &options).await?;
    for line in verdict.to_string().lines() {
        say(line);
    }
    Ok(if verdict.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The folder with `deploy/` and `examples/`: the working folder, or one above it.
fn checkout() -> Result<PathBuf> {
    let here = std::env::current_dir().context("the working folder")?;
    here.ancestors()
        .find(|folder| folder.join("examples/opengatellm.yaml").is_file())
        .map(Path::to_owned)
        .context("examples/opengatellm.yaml is not here; run the demo in the checkout of es-index-merge")
}

fn farewell(name: &str, access: &testenv::kubernetes::Access, servers: &Servers, folder: &Path) {
    let ca = servers
        .destination
        .ca
        .as_ref()
        .map(|file| format!("--cacert {} ", file.display()))
        .unwrap_or_default();
    println!(
        "\nLook around:\n  \
         export KUBECONFIG={} PATH={}:$PATH\n  \
         kubectl get esim -n {NAMESPACE} -o wide\n  \
         kubectl describe esim {INDEX} -n {NAMESPACE}\n  \
         kubectl explain esim.spec\n  \
         curl {ca}-u {}:$(kubectl get secret es-destination -n {NAMESPACE} -o jsonpath='{{.data.password}}' | base64 -d) '{}/{INDEX}/_count?pretty'\n  \
         less {}\n\
         End it:\n  make demo-down    (or: demo down --name {name})",
        access.kubeconfig.display(),
        access.kubectl.parent().unwrap_or(Path::new(".")).display(),
        servers.destination.username,
        servers.destination.url,
        folder.join("controller.log").display(),
    );
}
