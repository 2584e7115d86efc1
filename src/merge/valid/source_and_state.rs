//! The part of a spec that leads to the sources of a merge and to its state.

use url::Url;

use super::{Problems, checks, contract, identity};
use crate::api::EsIndexMergeSpec;
use crate::merge::error::Problem;

/// What leads to the sources of a merge and to what is stored of it: enough to serve writers, whatever is wrong with the
/// rest of its spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceAndState {
    /// See [`super::ValidMerge::identity`]. A spec that became that of another merge leads to nothing that is stored.
    pub identity: String,
    /// Nodes of the source cluster.
    pub source_urls: Vec<Url>,
    /// `spec.source.insecureSkipVerify`.
    pub source_insecure: bool,
    /// The schema of our tables.
    pub state_schema: String,
}

/// Where it is said.
const FIELDS: [&str; 3] = ["spec.source", "spec.state", "spec.collections.postgres"];

impl SourceAndState {
    /// Every problem of this part at once, or the part. The rest of the spec is not judged.
    pub fn parse(spec: &EsIndexMergeSpec) -> Result<SourceAndState, Vec<Problem>> {
        let mut problems = Problems(checks::problems(spec));
        problems.0.retain(|problem| FIELDS.iter().any(|field| problem.field.starts_with(*field)));
        let source_urls = problems.urls("spec.source.url", &spec.source.url);
        if !problems.0.is_empty() {
            return Err(problems.0);
        }
        let index = &spec.destination.index;
        Ok(SourceAndState {
            identity: identity(&source_urls, &index.name, contract(spec.contract), index.vector_size),
            source_urls,
            source_insecure: spec.source.insecure_skip_verify,
            state_schema: spec.state_schema().to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::{ValidMerge, test_merge, test_spec};
    use super::*;

    #[test]
    fn it_is_valid_by_itself_whatever_is_wrong_with_the_rest_of_the_spec() {
        let mut spec = test_spec();
        "0s".clone_into(&mut spec.cutover.timeout);
        spec.cutover.aliases = vec!["Not A Name".to_owned()];
        spec.workers.concurrency = 0;
        spec.collections.include = vec![1];
        spec.collections.exclude = vec![1];
        "no URL".clone_into(&mut spec.destination.url);
        assert!(ValidMerge::parse("default/test", &spec).is_err());
        let merge = test_merge();
        let expected = SourceAndState {
            identity: merge.identity(),
            source_urls: merge.source_urls,
            source_insecure: merge.source_insecure,
            state_schema: merge.state_schema,
        };
        assert_eq!(SourceAndState::parse(&spec), Ok(expected));
    }

    #[test]
    fn what_is_wrong_with_it_is_told_and_nothing_else() {
        let mut spec = test_spec();
        "0s".clone_into(&mut spec.cutover.timeout);
        "https://a:9200,http://[1::2::3]:9200".clone_into(&mut spec.source.url);
        let problems = SourceAndState::parse(&spec).unwrap_err();
        let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(told, ["spec.source.url: address 2 is not a URL: invalid IPv6 address"]);
    }

    #[test]
    fn a_spec_of_another_merge_leads_to_no_state_of_this_one() {
        let mut spec = test_spec();
        spec.destination.index.vector_size = 8;
        let part = SourceAndState::parse(&spec).unwrap();
        assert_ne!(part.identity, test_merge().identity());
    }
}
