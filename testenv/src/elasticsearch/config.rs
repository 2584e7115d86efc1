//! The configuration of one node, and how it is started.
//!
//! The archives lack the start script for Linux, so Java is started here as that script would. Unknown settings stop
//! a node: these servers have no machine learning and no geoip.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::{Access, Flavor, java};
use crate::pki::Purpose;
use crate::process::Launch;
use crate::run::Run;
use crate::user::User;
use crate::{places, ready};

/// What can be asked of a server.
#[derive(Debug, Clone)]
pub struct Options {
    /// Heap, as Java takes it.
    pub heap: String,
    /// Whether it speaks TLS, with a certificate of the run's test CA. Users and passwords are always needed.
    pub tls: bool,
    /// Whether it asks every client for a certificate of the run's test CA.
    pub client_certificates: bool,
    /// Further settings of `elasticsearch.yml`.
    pub settings: BTreeMap<String, String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { heap: "1g".to_owned(), tls: true, client_certificates: false, settings: BTreeMap::new() }
    }
}

/// Writes configuration, certificates and users into the run folder.
pub fn prepare(run: &Run, flavor: Flavor, program: &Path, options: &Options) -> Result<(Launch, Access)> {
    let user = User::for_services()?;
    let folder = run.part_folder(flavor.part())?;
    let (config, data, logs, temporary) =
        (folder.join("config"), folder.join("data"), folder.join("logs"), folder.join("tmp"));
    let snapshots = folder.join("snapshots");
    for made in [&config, &data, &logs, &temporary, &snapshots] {
        places::open_folder(made)?;
    }
    for file in ["jvm.options", "log4j2.properties", "role_mapping.yml", "roles.yml"] {
        let from = program.join("config").join(file);
        fs::copy(&from, config.join(file)).with_context(|| format!("cannot copy {}", from.display()))?;
    }
    let authority = run.authority()?;
    let (http, transport) = (ready::free_port()?, ready::free_port()?);
    let password = ready::password()?;
    let hash = bcrypt::hash_with_result(&password, 4)?.format_for_version(bcrypt::Version::TwoA);
    fs::write(config.join("users"), format!("elastic:{hash}\n"))?;
    fs::write(config.join("users_roles"), "superuser:elastic\n")?;
    let mut settings = settings(run, flavor, http, transport, &data, &logs);
    if options.tls {
        let pair = authority.issue(&config, "http", "elasticsearch", Purpose::Server(&[], &[]))?;
        settings.extend([
            ("xpack.security.http.ssl.enabled".to_owned(), "true".to_owned()),
            ("xpack.security.http.ssl.certificate".to_owned(), pair.certificate.display().to_string()),
            ("xpack.security.http.ssl.key".to_owned(), pair.key.display().to_string()),
        ]);
    }
    let mut client = None;
    if options.client_certificates {
        let own = config.join("clients.crt");
        fs::copy(authority.certificate(), &own)?;
        settings.extend([
            ("xpack.security.http.ssl.client_authentication".to_owned(), "required".to_owned()),
            ("xpack.security.http.ssl.certificate_authorities".to_owned(), own.display().to_string()),
        ]);
        client = Some(authority.issue(
            &folder,
            "client",
            "es-index-merge",
            Purpose::Client { organisation: "tests" },
        )?);
    }
    settings.extend(options.settings.clone());
    let yaml = settings.iter().fold(String::new(), |mut yaml, (name, value)| {
        let _ = writeln!(yaml, "{name}: {value}");
        yaml
    });
    fs::write(config.join("elasticsearch.yml"), yaml)?;
    let (mut home, java) = (program.to_owned(), java::find(flavor)?);
    if let Some(user) = &user {
        home = places::for_every_user(&home, &folder.join("program"))?;
        for owned in [&config, &data, &logs, &temporary, &snapshots] {
            user.own(owned)?;
        }
    }
    let launch = Launch {
        name: flavor.part().as_str().to_owned(),
        program: java.join("bin/java"),
        arguments: arguments(flavor, &home, &config),
        environment: [
            ("ES_HOME", home.display().to_string()),
            ("ES_PATH_CONF", config.display().to_string()),
            ("ES_JAVA_HOME", java.display().to_string()),
            ("JAVA", java.join("bin/java").display().to_string()),
            ("JAVA_TYPE", "ES_JAVA_HOME".to_owned()),
            ("ES_TMPDIR", temporary.display().to_string()),
            ("ES_DISTRIBUTION_TYPE", "tar".to_owned()),
            ("ES_JAVA_OPTS", format!("-Xms{0} -Xmx{0}", options.heap)),
            ("HOSTNAME", "localhost".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into(),
        // The start script goes there too; relative paths in the configuration mean this folder.
        folder: home,
        user,
        log: folder.join("output.log"),
        interrupt: false,
    };
    let scheme = if options.tls { "https" } else { "http" };
    let access = Access {
        url: format!("{scheme}://127.0.0.1:{http}"),
        username: "elastic".to_owned(),
        password,
        ca: options.tls.then(|| authority.certificate()),
        client,
    };
    Ok((launch, access))
}

fn settings(
    run: &Run,
    flavor: Flavor,
    http: u16,
    transport: u16,
    data: &Path,
    logs: &Path,
) -> BTreeMap<String, String> {
    [
        ("cluster.name", format!("{}-{}", run.name(), flavor.part().as_str())),
        ("node.name", "node-1".to_owned()),
        ("discovery.type", "single-node".to_owned()),
        ("http.host", "127.0.0.1".to_owned()),
        ("http.port", http.to_string()),
        ("transport.host", "127.0.0.1".to_owned()),
        ("transport.port", transport.to_string()),
        ("path.data", data.display().to_string()),
        // Snapshots may be kept there, under any relative location.
        ("path.repo", data.with_file_name("snapshots").display().to_string()),
        ("path.logs", logs.display().to_string()),
        ("xpack.security.enabled", "true".to_owned()),
        ("xpack.security.enrollment.enabled", "false".to_owned()),
        // The name `elastic` belongs to this realm otherwise, and the file realm is not asked for it.
        ("xpack.security.authc.reserved_realm.enabled", "false".to_owned()),
        ("xpack.license.self_generated.type", "basic".to_owned()),
        // Thousands of small indices on one node, on a disk that may be rather full.
        ("cluster.max_shards_per_node", "20000".to_owned()),
        ("cluster.routing.allocation.disk.threshold_enabled", "false".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// What the start script would give to Java.
fn arguments(flavor: Flavor, home: &Path, config: &Path) -> Vec<String> {
    let home = home.display();
    let mut arguments = ["-Xms4m", "-Xmx64m", "-XX:+UseSerialGC"].map(str::to_owned).to_vec();
    match flavor {
        Flavor::V8 => arguments.extend([
            "-Dcli.name=server".to_owned(),
            format!("-Dcli.script={home}/bin/elasticsearch"),
            "-Dcli.libs=lib/tools/server-cli".to_owned(),
            format!("-Des.path.home={home}"),
            format!("-Des.path.conf={}", config.display()),
            "-Des.distribution.type=tar".to_owned(),
            "-cp".to_owned(),
            format!("{home}/lib/*:{home}/lib/cli-launcher/*"),
            "org.elasticsearch.launcher.CliToolLauncher".to_owned(),
        ]),
        Flavor::V9 => arguments.extend([
            "-cp".to_owned(),
            format!("{home}/lib/tools/server-launcher/*"),
            "org.elasticsearch.server.launcher.ServerLauncher".to_owned(),
        ]),
    }
    arguments
}
