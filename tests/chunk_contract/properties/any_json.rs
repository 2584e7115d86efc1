//! Chunks that are no chunks: any JSON in any place, at any depth.

use super::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_json_is_refused_in_words_or_becomes_a_document_each_time_alike(
        (fields, metadata) in any_members(), whole in any_value(), at in any::<prop::sample::Index>(),
        transform in any_transform(), facts in any_facts(), vector in proptest::option::of(any_embedding())
    ) {
        // Nothing but a value, and a chunk in which one member is any value.
        let mut changed = fields.clone();
        let place = at.index(changed.len());
        changed[place].1.clone_from(&whole);
        let vector = vector.as_deref().map(|text| text.trim_matches('"'));
        for source in [whole.clone(), source(&changed, &metadata), object(&fields)] {
            let input = Input { source: source.as_bytes(), vector, collection_id: 5 };
            match (parse(&transform, input), parse(&transform, input)) {
                (Ok(parsed), Ok(again)) => {
                    let (mut one, mut other) = (Vec::new(), Vec::new());
                    prop_assert_eq!(parsed.write(facts.as_ref(), &mut one), again.write(facts.as_ref(), &mut other));
                    prop_assert_eq!(&one, &other);
                    assert_readable(&one, &transform);
                }
                (Err(refusal), Err(again)) => {
                    prop_assert_eq!(&refusal, &again);
                    prop_assert!(!refusal.class.as_str().is_empty());
                    prop_assert!((1..1_000).contains(&refusal.reason.len()), "{}", refusal.reason);
                }
                (one, other) => prop_assert!(false, "{one:?} {other:?}"),
            }
        }
    }

    #[test]
    fn an_embedding_beside_the_chunk_is_the_one_within_it(values in vec(-1.0..1.0_f32, SIZE), transform in any_transform()) {
        prop_assume!(values.iter().any(|value| value.abs() > 1e-6));
        let chunk = |embedding: &str| format!(r#"{{"id":1,"content":"x",{embedding}"metadata":{{"document_id":2}}}}"#);
        let written = |source: &str, vector: Option<&str>| {
            let input = Input { source: source.as_bytes(), vector, collection_id: 5 };
            let mut out = Vec::new();
            let _ = parse(&transform, input).unwrap().write(None, &mut out);
            out
        };
        let text = encoded(&values);
        let beside = written(&chunk(""), Some(&text));
        let within = written(&chunk(&format!("\"embedding\":\"{text}\",")), None);
        prop_assert_eq!(beside, within);
    }

    #[test]
    fn any_depth_is_survived(depth in 0..3_000_usize, in_metadata: bool, is_object: bool) {
        let (open, close) = if is_object { (r#"{"a":"#, "}") } else { ("[", "]") };
        let deep = format!("{}1{}", open.repeat(depth), close.repeat(depth));
        let (extra, entry) = if in_metadata { ("0", deep.as_str()) } else { (deep.as_str(), "0") };
        let source = format!(
            r#"{{"id":1,"content":"x","embedding":[1,2,3],"extra":{extra},"metadata":{{"document_id":2,"entry":{entry}}}}}"#
        );
        let transform = transform(Contract::OpenGateLLM, VectorForm::Json);
        match write(&transform, source.as_bytes(), None) {
            Some(document) => assert_readable(&document, &transform),
            None => prop_assert!(depth > 900, "refused at {depth}"),
        }
    }
}
