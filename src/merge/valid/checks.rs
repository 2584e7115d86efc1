//! What the definition of the resource refuses, refused again: the engine also runs without an API server.
//!
//! The same bounds and the same words (`api::words`). Two things only the API server can judge: which fields may change,
//! and a `retainFor` without a deletion, which may stay when a deletion is given up. Resources that are older than a rule of
//! the definition go on, so the controller does not ask `problems_of_new`.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::api::{self, EsIndexMergeSpec, IndexSpec, quantity, words};
use crate::merge::error::Problem;

/// Every problem that the definition has with this spec.
pub(super) fn problems(spec: &EsIndexMergeSpec) -> Vec<Problem> {
    // A spec is JSON by nature; the rest is checked all the same.
    let value = serde_json::to_value(spec).unwrap_or(Value::Null);
    let refused = api::out_of_bounds(&value);
    let mut checks = Checks {
        out_of_bounds: refused.iter().map(|refusal| refusal.field.clone()).collect(),
        problems: refused.into_iter().map(|refusal| Problem::new(refusal.field, refusal.message)).collect(),
    };
    let (source, destination) = (&spec.source, &spec.destination);
    checks.url("spec.source.url", &source.url);
    checks.url("spec.destination.url", &destination.url);
    if source.ca_secret_ref.is_some() && source.insecure_skip_verify {
        checks.say("spec.source", words::CA_OR_INSECURE, &[]);
    }
    if destination.ca_secret_ref.is_some() && destination.insecure_skip_verify {
        checks.say("spec.destination", words::CA_OR_INSECURE, &[]);
    }
    checks.index(&destination.index);
    checks.lists(&spec.collections);
    checks.quantities(spec);
    checks.aliases(spec);
    checks.deletions(spec);
    let schema = spec.state_schema();
    if schema.starts_with("pg_") || schema == "information_schema" {
        checks.say("spec.state.schema", words::SCHEMA_IS_RESERVED, &[schema]);
    }
    checks.problems
}

/// What only new resources are refused for.
pub(super) fn problems_of_new(spec: &EsIndexMergeSpec) -> Vec<Problem> {
    let writers = format!("{}{}", spec.destination.index.name, words::WRITER_SUFFIX);
    let is_used = spec.cutover.aliases.contains(&writers);
    let problem =
        || Problem::new("spec.cutover.aliases", words::with(words::ALIAS_OF_THE_WRITERS, &[&writers]));
    is_used.then(problem).into_iter().collect()
}

struct Checks {
    /// Fields of which enough is said.
    out_of_bounds: BTreeSet<String>,
    problems: Vec<Problem>,
}

impl Checks {
    fn say(&mut self, field: &str, text: &str, values: &[&str]) {
        if !self.out_of_bounds.contains(field) {
            self.problems.push(Problem::new(field, words::with(text, values)));
        }
    }

    /// A URL is never repeated: it may hold a password by mistake.
    fn url(&mut self, field: &str, text: &str) {
        if text.contains('@') {
            self.say(field, words::URL_WITH_CREDENTIALS, &[]);
        } else if let Some(position) = text.split(',').position(|part| !api::is_node_url(part.trim())) {
            self.say(field, &format!("{}; address {} is not", words::URL_FORM, position + 1), &[]);
        }
    }

    fn index(&mut self, index: &IndexSpec) {
        let field = "spec.destination.index.name";
        if !is_name(&index.name, words::INDEX_NAME_BYTES) {
            self.say(field, words::INDEX_NAME, &[&index.name]);
        } else if is_number(&index.name) {
            self.say(field, words::INDEX_IS_A_NUMBER, &[&index.name]);
        }
        let Some(options) = &index.vector_index_options else { return };
        let (kind, size) = (options.type_.as_str(), index.vector_size.to_string());
        let field = "spec.destination.index.vectorSize";
        if kind.starts_with("int4") && !index.vector_size.is_multiple_of(2) {
            self.say(field, words::INT4_OF_AN_ODD_SIZE, &[&size, kind]);
        }
        if kind.starts_with("bbq") && index.vector_size < 64 {
            self.say(field, words::BBQ_OF_A_SHORT_VECTOR, &[&size, kind]);
        }
        if !options.type_.has_graph() && (options.m.is_some() || options.ef_construction.is_some()) {
            let field = "spec.destination.index.vectorIndexOptions";
            self.say(field, words::GRAPH_OPTIONS_WITHOUT_A_GRAPH, &[kind]);
        }
    }

    fn lists(&mut self, collections: &api::CollectionsSpec) {
        let excluded: BTreeSet<i64> = collections.exclude.iter().copied().collect();
        if let Some(both) = collections.include.iter().find(|id| excluded.contains(id)) {
            self.say("spec.collections.exclude", words::IN_BOTH_LISTS, &[&both.to_string()]);
        }
    }

    fn quantities(&mut self, spec: &EsIndexMergeSpec) {
        let bytes = &spec.workers.max_bytes_in_flight;
        if !is_within(words::BYTES_IN_FLIGHT, bytes, quantity::parse_bytes) {
            let text = words::bytes_outside(words::BYTES_IN_FLIGHT);
            self.say("spec.workers.maxBytesInFlight", &text, &[bytes]);
        }
        let cutover = &spec.cutover;
        for (field, bounds, text) in [
            ("spec.cutover.maxLag", words::MAX_LAG, cutover.max_lag.as_str()),
            ("spec.cutover.timeout", words::TIMEOUT, &cutover.timeout),
            ("spec.cutover.retainFor", words::RETAIN_FOR, cutover.retain_for()),
        ] {
            if !is_within(bounds, text, quantity::parse_duration) {
                self.say(field, &words::duration_outside(bounds), &[text]);
            }
        }
    }

    fn aliases(&mut self, spec: &EsIndexMergeSpec) {
        let (index, field) = (&spec.destination.index.name, "spec.cutover.aliases");
        for alias in &spec.cutover.aliases {
            if !is_name(alias, words::ALIAS_BYTES) {
                self.say(field, &format!("{}; {alias:?} is not", words::ALIAS_NAME), &[]);
            } else if is_number(alias) {
                self.say(field, words::ALIAS_IS_A_NUMBER, &[alias]);
            } else if alias == index {
                self.say(field, words::ALIAS_IS_THE_INDEX, &[alias]);
            }
        }
    }

    /// What must hold for sources to be deleted, whenever that will be. That the destination is to be deleted too is left to
    /// the API server: resources made before it refused that must go on, and the only copy is not deleted anyway.
    fn deletions(&mut self, spec: &EsIndexMergeSpec) {
        if spec.cutover.delete_sources == api::DeleteSources::Never {
            return;
        }
        let (field, deletes) = ("spec.cutover.deleteSources", "AfterVerification");
        if spec.cutover.source_writes == api::SourceWrites::Allow {
            self.say(field, words::DELETION_OF_WHAT_IS_WRITTEN_TO, &[deletes, "Allow"]);
        }
        if spec.verification.mode == api::VerificationMode::Counts {
            self.say(field, words::DELETION_OF_WHAT_WAS_COUNTED, &[deletes, "Counts"]);
        }
    }
}

/// The names Elasticsearch allows for a new index or alias.
fn is_name(name: &str, bytes: usize) -> bool {
    let is_forbidden =
        |c: char| "\\/*?\"<>|,#:".contains(c) || c.is_ascii_whitespace() || c.is_ascii_uppercase();
    !name.is_empty()
        && name.len() <= bytes
        && !name.starts_with(['-', '_', '+', '.'])
        && !name.contains(is_forbidden)
}

fn is_number(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether a quantity can be read and lies between its bounds.
fn is_within<T: PartialOrd>(
    (min, max): words::Bounds,
    text: &str,
    parse: impl Fn(&str) -> Result<T, quantity::QuantityError>,
) -> bool {
    match (parse(min), parse(text), parse(max)) {
        (Ok(min), Ok(value), Ok(max)) => min <= value && value <= max,
        _ => false,
    }
}
