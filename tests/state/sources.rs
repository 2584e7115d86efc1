use es_index_merge::state::{Counts, NewSource, SourceId, SourceState, UnitKind};

use crate::fixture::{Fixture, LEASE, advance, source, target};

#[tokio::test]
async fn sources_are_known_by_collection_and_index_uuid() {
    let fixture = Fixture::new().await;
    let first = fixture.state.upsert_sources(fixture.merge, &[source(1), source(2)]).await.unwrap();
    let grown = NewSource { documents: 99, bytes: 7, ..source(1) };
    // Named twice in one call: once stored.
    let second = fixture.state.upsert_sources(fixture.merge, &[grown.clone(), grown]).await.unwrap();
    assert_eq!(second.iter().map(|row| row.id).collect::<Vec<_>>(), [first[0].id, first[1].id]);
    assert_eq!((second[0].documents, second[0].bytes, second[1].documents), (99, 7, 10));
    let remade = NewSource { index_uuid: "made anew".to_owned(), ..source(1) };
    let third = fixture.state.upsert_sources(fixture.merge, &[remade]).await.unwrap();
    assert_eq!(third.len(), 3);
    assert_eq!(third.iter().filter(|row| row.collection_id == 1).count(), 2);
}

#[tokio::test]
async fn attention_blocks_and_states_are_remembered() {
    let Fixture { database: _database, state, merge } = Fixture::new().await;
    let rows = state.upsert_sources(merge, &[source(1), source(2)]).await.unwrap();
    assert!(state.set_attention(merge, 1, Some("the index is closed")).await.unwrap());
    assert!(!state.set_attention(merge, 1, Some("the index is closed")).await.unwrap());
    state.set_blocked(&[rows[1].id], true).await.unwrap();
    state.set_source_state(&[rows[0].id], SourceState::Waiting).await.unwrap();
    let seen = state.sources(merge).await.unwrap();
    assert_eq!(seen[0].attention.as_deref(), Some("the index is closed"));
    assert_eq!((seen[0].state, seen[1].state), (SourceState::Waiting, SourceState::Active));
    assert_eq!((seen[0].blocked_by_us, seen[1].blocked_by_us), (false, true));
    // Found again: active; what was remembered otherwise stays.
    let again = state.upsert_sources(merge, &[source(1), source(2)]).await.unwrap();
    assert_eq!(again[0].state, SourceState::Active);
    assert!(again[1].blocked_by_us);
    assert!(state.set_attention(merge, 1, None).await.unwrap());
}

/// Copies and compares that many chunks of a source, of which two share a key.
async fn walk(fixture: &Fixture, source: SourceId, chunks: i64) {
    let copied = Counts { documents: chunks, written: chunks, ..Counts::default() };
    let compared = Counts { documents: chunks, compared: chunks, collapsed: 1, ..Counts::default() };
    for (kind, counts) in [(UnitKind::Copy, copied), (UnitKind::Verify, compared)] {
        fixture.plan(kind, &[target(source, chunks)], 1_000).await;
        let units = fixture.state.lease_units(fixture.merge, kind, "a", LEASE, 10, 1_000).await.unwrap();
        let mut step = advance(&units[0], chunks);
        step.counts = counts;
        fixture.state.checkpoint(fixture.merge, &[step], &[], &[]).await.unwrap();
    }
}

#[tokio::test]
async fn what_was_done_with_an_index_that_is_gone_is_not_counted_for_its_collection() {
    let fixture = Fixture::new().await;
    let former = fixture.sources([1]).await[0];
    walk(&fixture, former, 100).await;
    fixture.state.set_source_state(&[former], SourceState::Gone).await.unwrap();
    assert!(fixture.state.collection_counts(fixture.merge).await.unwrap().is_empty());

    let anew = NewSource { index_uuid: "made anew".to_owned(), ..source(1) };
    let rows = fixture.state.upsert_sources(fixture.merge, &[anew]).await.unwrap();
    let latter = rows.iter().find(|row| row.index_uuid == "made anew").unwrap().id;
    fixture.state.set_source_state(&[former], SourceState::Purged).await.unwrap();
    walk(&fixture, latter, 7).await;
    let counts = Counts { documents: 7, written: 7, compared: 7, collapsed: 1, ..Counts::default() };
    assert_eq!(fixture.state.collection_counts(fixture.merge).await.unwrap(), [(1, counts)]);
    // One that cannot be read for now is not gone.
    fixture.state.set_source_state(&[latter], SourceState::Waiting).await.unwrap();
    assert_eq!(fixture.state.collection_counts(fixture.merge).await.unwrap(), [(1, counts)]);
}
