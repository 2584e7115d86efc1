use es_index_merge::state::{NewSource, SourceState};

use crate::fixture::{Fixture, source};

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
