//! How a manifest is decoded: what is left out gets the documented value.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::super::*;

const SHORTEST: &str = "
apiVersion: indexmerge.dev/v1alpha1
kind: EsIndexMerge
metadata: {name: opengatellm}
spec:
  collections: {postgres: {urlSecretRef: {name: postgres, key: url}}}
  source: {url: https://elasticsearch:9200}
  destination:
    url: https://elasticsearch:9200
    index: {name: opengatellm, language: french, vectorSize: 1024}
  contract: OpenGateLLM
";

fn shortest() -> EsIndexMerge {
    serde_yaml_ng::from_str(SHORTEST).unwrap()
}

#[test]
fn the_shortest_manifest_gets_the_documented_defaults() {
    let spec = shortest().spec;
    assert_eq!(spec.destination.index.number_of_shards, 24);
    assert_eq!(spec.destination.index.number_of_replicas, 1);
    assert_eq!(spec.destination.index.vector_index_options, None);
    assert_eq!(spec.workers.concurrency, 4);
    assert_eq!(quantity::parse_bytes(&spec.workers.max_bytes_in_flight), Ok(64 << 20));
    assert_eq!(spec.workers.max_documents_per_second, None);
    assert_eq!(spec.verification.mode, VerificationMode::Full);
    assert_eq!(spec.tolerations.max_quarantined, 0);
    assert_eq!(quantity::parse_duration(&spec.cutover.max_lag), Ok(std::time::Duration::from_secs(30)));
    assert_eq!(quantity::parse_duration(&spec.cutover.timeout), Ok(std::time::Duration::from_mins(5)));
    assert_eq!(spec.cutover.source_writes, SourceWrites::Block);
    assert_eq!(spec.deletion_policy, DeletionPolicy::Retain);
    assert_eq!(spec.state_schema(), "es_index_merge");
    assert_eq!(spec.state_postgres(), &spec.collections.postgres);
    assert!(!spec.suspend && !spec.cutover.hold && !spec.source.insecure_skip_verify);
}

#[test]
fn a_part_of_a_section_leaves_the_rest_of_it_at_its_defaults() {
    let yaml = format!("{SHORTEST}  workers: {{concurrency: 8}}\n  cutover: {{hold: true}}\n");
    let merge: EsIndexMerge = serde_yaml_ng::from_str(&yaml).unwrap();
    let expected = WorkersSpec { concurrency: 8, ..WorkersSpec::default() };
    assert_eq!(merge.spec.workers, expected);
    assert_eq!(merge.spec.cutover, CutoverSpec { hold: true, ..CutoverSpec::default() });
}

#[test]
fn what_is_written_is_read_back_the_same() {
    let merge = shortest();
    let back: EsIndexMerge = serde_yaml_ng::from_str(&serde_yaml_ng::to_string(&merge).unwrap()).unwrap();
    assert_eq!(back, merge);
}

#[test]
fn names_of_languages_contracts_and_index_types_are_those_of_the_manifest() {
    for language in Language::ALL {
        assert_eq!(serde_json::to_value(language).unwrap(), language.as_str());
        assert_eq!(language.as_str().parse(), Ok(language));
    }
    assert!("klingon".parse::<Language>().unwrap_err().contains("french"));
    for contract in [Contract::OpenGateLLM, Contract::OpenGateRAG] {
        assert_eq!(serde_json::to_value(contract).unwrap(), contract.as_str());
        assert_eq!(contract.as_str().parse(), Ok(contract));
    }
    assert!("opengatellm".parse::<Contract>().is_err());
    for name in ["hnsw", "int8_hnsw", "int4_hnsw", "bbq_hnsw", "flat", "int8_flat", "int4_flat", "bbq_flat"] {
        let parsed: VectorIndexType = serde_json::from_value(name.into()).unwrap();
        assert_eq!(parsed.as_str(), name);
        assert_eq!(parsed.has_graph(), name.ends_with("hnsw"));
    }
}
