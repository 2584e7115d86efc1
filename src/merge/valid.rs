//! The spec, parsed once: names that cannot be wrong, quantities in units, defaults filled in.
//!
//! Pure. All problems of a spec are reported together. What the API server checks at apply (the schema and the CEL rules
//! of the definition) is checked here again, in `checks`, because the engine also runs without one.

mod checks;
mod source_and_state;

use std::collections::BTreeSet;
use std::time::Duration;

use sha2::{Digest, Sha256};
use url::Url;

use super::error::Problem;
use crate::api::{self, EsIndexMergeSpec, quantity};
use crate::chunk::{Contract, Language};
use crate::elastic::IndexName;

pub(super) use source_and_state::SourceAndState;

/// A spec that holds together. Built only by [`ValidMerge::parse`].
#[derive(Debug, Clone, PartialEq)]
pub struct ValidMerge {
    /// Who asks: `namespace/name`, or `cli/name`.
    pub owner: String,
    /// Nodes of the source cluster.
    pub source_urls: Vec<Url>,
    /// `spec.source.insecureSkipVerify`.
    pub source_insecure: bool,
    /// The destination.
    pub destination: Destination,
    /// Collection ids to take; empty: all.
    pub include: BTreeSet<i64>,
    /// Collection ids to leave out.
    pub exclude: BTreeSet<i64>,
    /// The schema of our tables.
    pub state_schema: String,
    /// How hard to work. Live.
    pub workers: Workers,
    /// What the verdict is made from. Live.
    pub verification: Verification,
    /// What the verdict forgives. Live.
    pub tolerations: Tolerations,
    /// How to cut over. Live.
    pub cutover: Cutover,
    /// Pause. Live.
    pub suspend: bool,
    /// A new value retries what failed. Live.
    pub retry_token: String,
}

/// The destination index.
#[derive(Debug, Clone, PartialEq)]
pub struct Destination {
    /// Nodes of the destination cluster.
    pub urls: Vec<Url>,
    /// `spec.destination.insecureSkipVerify`.
    pub insecure: bool,
    /// Its name.
    pub index: IndexName,
    /// The shape of its documents.
    pub contract: Contract,
    /// Primary shards.
    pub shards: u32,
    /// Replicas in service (none while loading).
    pub replicas: u32,
    /// Language of the text analysis.
    pub language: Language,
    /// Dimensions of the vectors.
    pub vector_size: u32,
    /// The wanted `index_options`, or `None`: pinned to the best that the server's version has.
    pub index_options: Option<serde_json::Value>,
}

/// How hard to work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workers {
    /// Groups of windows in flight.
    pub concurrency: u32,
    /// Bound on the bytes of pages and bulk bodies in flight.
    pub max_bytes_in_flight: u64,
    /// Politeness: documents per second over all workers of this process.
    pub max_documents_per_second: Option<u32>,
}

/// See `spec.verification.mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verification {
    /// Every chunk is compared, and every collection counted.
    Full,
    /// Every collection is counted.
    Counts,
}

/// What the verdict forgives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tolerations {
    /// Chunks that may stay in quarantine.
    pub max_quarantined: u64,
    /// Documents of the destination that belong to no collection of the merge.
    pub unknown_documents: UnknownDocuments,
}

/// See [`Tolerations::unknown_documents`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownDocuments {
    /// They stay, and are counted in the verdict.
    Keep,
    /// They make the verdict negative.
    Refuse,
}

/// How to cut over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cutover {
    /// Stay in `Synced`.
    pub hold: bool,
    /// The cutover begins only when the last pass is not older than this.
    pub max_lag: Duration,
    /// The time in which it must be done.
    pub timeout: Duration,
    /// Whether writers are refused.
    pub source_writes: SourceWrites,
    /// Aliases to put on the destination at the end.
    pub aliases: Vec<IndexName>,
    /// How long after the end the source indices are deleted; `None`: never.
    pub delete_sources_after: Option<Duration>,
}

/// See [`Cutover::source_writes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceWrites {
    /// The sources get a write block in the cutover and keep it.
    Block,
    /// No block; a block that we set is lifted.
    Allow,
}

impl ValidMerge {
    /// Every problem of the spec at once, or a merge that holds together.
    pub fn parse(owner: &str, spec: &EsIndexMergeSpec) -> Result<ValidMerge, Vec<Problem>> {
        let mut problems = Problems(checks::problems(spec));
        let source_urls = problems.urls("spec.source.url", &spec.source.url);
        let destination_urls = problems.urls("spec.destination.url", &spec.destination.url);
        let index = &spec.destination.index;
        let name = problems.index("spec.destination.index.name", &index.name);
        let workers = problems.workers(&spec.workers);
        let cutover = problems.cutover(&spec.cutover);
        let (Some(name), true) = (name, problems.0.is_empty()) else {
            return Err(problems.0);
        };
        Ok(ValidMerge {
            owner: owner.to_owned(),
            source_urls,
            source_insecure: spec.source.insecure_skip_verify,
            destination: Destination {
                urls: destination_urls,
                insecure: spec.destination.insecure_skip_verify,
                index: name,
                contract: contract(spec.contract),
                shards: index.number_of_shards,
                replicas: index.number_of_replicas,
                language: language(index.language),
                vector_size: index.vector_size,
                index_options: index.vector_index_options.as_ref().map(index_options),
            },
            include: spec.collections.include.iter().copied().collect(),
            exclude: spec.collections.exclude.iter().copied().collect(),
            state_schema: spec.state_schema().to_owned(),
            verification: match spec.verification.mode {
                api::VerificationMode::Full => Verification::Full,
                api::VerificationMode::Counts => Verification::Counts,
            },
            workers,
            tolerations: Tolerations {
                max_quarantined: spec.tolerations.max_quarantined.max(0).unsigned_abs(),
                unknown_documents: match spec.tolerations.unknown_documents {
                    api::UnknownDocuments::Refuse => UnknownDocuments::Refuse,
                    api::UnknownDocuments::Keep => UnknownDocuments::Keep,
                },
            },
            cutover,
            suspend: spec.suspend,
            retry_token: spec.retry_token.clone(),
        })
    }

    /// As [`ValidMerge::parse`], for a spec that no API server has seen. What only the definition refuses, so that
    /// resources that are older than its rule go on, is refused as well.
    pub fn parse_new(owner: &str, spec: &EsIndexMergeSpec) -> Result<ValidMerge, Vec<Problem>> {
        let of_new = checks::problems_of_new(spec);
        match ValidMerge::parse(owner, spec) {
            Ok(merge) if of_new.is_empty() => Ok(merge),
            Ok(_) => Err(of_new),
            Err(problems) => Err(problems.into_iter().chain(of_new).collect()),
        }
    }

    /// A fingerprint of what makes this merge this merge: another one with the same destination is another merge.
    #[must_use]
    pub fn identity(&self) -> String {
        let Destination { index, contract, vector_size, .. } = &self.destination;
        identity(&self.source_urls, index.as_str(), *contract, *vector_size)
    }

    /// What a verdict depends on besides the data.
    #[must_use]
    pub fn verdict_basis(&self) -> String {
        format!(
            "maxQuarantined={} unknownDocuments={:?} retryToken={:?}",
            self.tolerations.max_quarantined, self.tolerations.unknown_documents, self.retry_token
        )
    }

    /// Whether the spec asks for that collection.
    #[must_use]
    pub fn wants(&self, collection: i64) -> bool {
        (self.include.is_empty() || self.include.contains(&collection)) && !self.exclude.contains(&collection)
    }
}

/// See [`ValidMerge::identity`].
fn identity(source_urls: &[Url], index: &str, contract: Contract, vector_size: u32) -> String {
    let parts = [
        source_urls.iter().map(Url::as_str).collect::<Vec<_>>().join(","),
        index.to_owned(),
        contract.as_str().to_owned(),
        vector_size.to_string(),
    ];
    let digest = Sha256::digest(parts.join("\n").as_bytes());
    let mut first = [0; 16];
    first.copy_from_slice(&digest[..16]);
    format!("{:032x}", u128::from_be_bytes(first))
}

/// Collects problems while values are parsed.
struct Problems(Vec<Problem>);

impl Problems {
    /// One problem of a field is enough: what does not fit the definition is often no value either.
    fn add(&mut self, field: &str, message: String) {
        let list = field.split('[').next().unwrap_or(field);
        if !self.0.iter().any(|problem| problem.field == field || problem.field == list) {
            self.0.push(Problem::new(field, message));
        }
    }

    fn urls(&mut self, field: &str, text: &str) -> Vec<Url> {
        let mut urls = Vec::new();
        for (position, part) in text.split(',').map(str::trim).enumerate() {
            match Url::parse(part) {
                Ok(url) => urls.push(url),
                // Its place and not its text, which may hold a password.
                Err(error) => self.add(field, format!("address {} is not a URL: {error}", position + 1)),
            }
        }
        urls
    }

    fn index(&mut self, field: &str, name: &str) -> Option<IndexName> {
        match IndexName::parse(name) {
            Ok(name) => Some(name),
            Err(error) => {
                self.add(field, error.to_string());
                None
            }
        }
    }

    fn duration(&mut self, field: &str, text: &str) -> Duration {
        quantity::parse_duration(text).unwrap_or_else(|error| {
            self.add(field, error.to_string());
            Duration::ZERO
        })
    }

    fn workers(&mut self, spec: &api::WorkersSpec) -> Workers {
        let max_bytes_in_flight = quantity::parse_bytes(&spec.max_bytes_in_flight).unwrap_or_else(|error| {
            self.add("spec.workers.maxBytesInFlight", error.to_string());
            0
        });
        Workers {
            concurrency: spec.concurrency.clamp(1, 64),
            max_bytes_in_flight: max_bytes_in_flight.max(1024 * 1024),
            max_documents_per_second: spec.max_documents_per_second,
        }
    }

    fn cutover(&mut self, spec: &api::CutoverSpec) -> Cutover {
        let aliases = spec
            .aliases
            .iter()
            .enumerate()
            .filter_map(|(position, alias)| self.index(&format!("spec.cutover.aliases[{position}]"), alias))
            .collect();
        Cutover {
            hold: spec.hold,
            max_lag: self.duration("spec.cutover.maxLag", &spec.max_lag),
            timeout: self.duration("spec.cutover.timeout", &spec.timeout),
            source_writes: match spec.source_writes {
                api::SourceWrites::Allow => SourceWrites::Allow,
                api::SourceWrites::Block => SourceWrites::Block,
            },
            aliases,
            delete_sources_after: match spec.delete_sources {
                api::DeleteSources::Never => None,
                api::DeleteSources::AfterVerification => {
                    Some(self.duration("spec.cutover.retainFor", spec.retain_for()))
                }
            },
        }
    }
}

/// The mapping's `index_options`, as the server wants them.
fn index_options(options: &api::VectorIndexOptions) -> serde_json::Value {
    let mut value = serde_json::json!({"type": options.type_.as_str()});
    if let Some(m) = options.m {
        value["m"] = m.into();
    }
    if let Some(ef_construction) = options.ef_construction {
        value["ef_construction"] = ef_construction.into();
    }
    value
}

fn contract(contract: api::Contract) -> Contract {
    match contract {
        api::Contract::OpenGateLLM => Contract::OpenGateLLM,
        api::Contract::OpenGateRAG => Contract::OpenGateRAG,
    }
}

fn language(language: api::Language) -> Language {
    match language {
        api::Language::French => Language::French,
        api::Language::English => Language::English,
        api::Language::German => Language::German,
        api::Language::Italian => Language::Italian,
        api::Language::Portuguese => Language::Portuguese,
        api::Language::Spanish => Language::Spanish,
        api::Language::Swedish => Language::Swedish,
        api::Language::Dutch => Language::Dutch,
    }
}

/// A merge that holds together, for the tests of the engine.
#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) fn test_merge() -> ValidMerge {
    ValidMerge::parse("default/test", &test_spec()).unwrap()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
fn test_spec() -> EsIndexMergeSpec {
    let manifest = r"
apiVersion: indexmerge.dev/v1alpha1
kind: EsIndexMerge
metadata: {name: test}
spec:
  collections: {postgres: {urlSecretRef: {name: postgres, key: url}}}
  source: {url: 'https://source:9200'}
  destination:
    url: 'https://destination:9200'
    index: {name: merged, language: french, vectorSize: 1024}
  contract: OpenGateLLM
";
    let resource: api::EsIndexMerge = serde_yaml_ng::from_str(manifest).unwrap();
    resource.spec
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn problems_of_source(url: &str) -> String {
        let mut spec = test_spec();
        url.clone_into(&mut spec.source.url);
        let problems = ValidMerge::parse("default/test", &spec).unwrap_err();
        problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn no_part_of_an_address_is_repeated_as_it_may_be_a_password() {
        for url in [
            "elastic:hunter2@host:9200",
            "https://elastic:hunter2@host:9200",
            "https://a:9200,elastic:hunter2@host",
            "https://a:9200,elastic:hunter2",
            "https://a:9200,hunter2",
            "http://[hunter2]:9200",
        ] {
            let problems = problems_of_source(url);
            assert!(problems.starts_with("spec.source.url: must "), "{url}: {problems}");
            assert!(!problems.contains("hunter2"), "{url}: {problems}");
        }
    }

    #[test]
    fn an_address_that_is_none_is_named_by_its_place() {
        let problems = problems_of_source("https://a:9200, https://b:9200,c:9200");
        assert!(problems.contains("must be https://host:port"), "{problems}");
        assert!(problems.ends_with("address 3 is not"), "{problems}");
        let problems = problems_of_source("http://[1::2::3]:9200");
        assert_eq!(problems, "spec.source.url: address 1 is not a URL: invalid IPv6 address");
    }
}
