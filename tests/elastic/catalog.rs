//! What exists and what we may do, and the difference between "missing" and "hidden from us".

use es_index_merge::elastic::{CatalogEntry, ErrorCategory, Health, IndexName};
use serde_json::json;
use testenv::elasticsearch::Flavor;

use super::server::{Index, Server, settings, write};

#[tokio::test]
async fn indices_open_closed_and_hidden_and_aliases_are_listed() {
    for server in Server::each().await {
        let open = server.index(json!({"settings": settings(1)})).await;
        let closed = server.index(json!({"settings": settings(1)})).await;
        server.ask("POST", &format!("/{}/_close", *closed), None);
        let mut hidden_settings = settings(1);
        hidden_settings["index.hidden"] = json!(true);
        let hidden = server.index(json!({"settings": hidden_settings})).await;
        let alias = server.unused_index();
        let add = json!([{"add": {"index": open.as_str(), "alias": alias.as_str()}}]);
        server.cluster.update_aliases(&add).await.unwrap();

        let entries = server.cluster.resolve().await.unwrap();
        let find = |wanted: &IndexName| {
            entries.iter().find(|e| matches!(e, CatalogEntry::Index { name, .. } if name == wanted)).cloned()
        };
        let index =
            |name: &Index, open, aliases| CatalogEntry::Index { name: (*name).clone(), open, aliases };
        assert_eq!(find(&open), Some(index(&open, true, vec![alias.to_string()])));
        assert_eq!(find(&closed), Some(index(&closed, false, vec![])));
        assert_eq!(find(&hidden), Some(index(&hidden, true, vec![])));
        let entry = CatalogEntry::Alias { name: alias.to_string(), indices: vec![open.clone()] };
        assert!(entries.contains(&entry), "{entries:?}");
        let error = server.cluster.describe(&[alias.clone()]).await.unwrap_err();
        assert!(error.to_string().contains("is an alias"), "{error}");
    }
}

#[tokio::test]
async fn the_list_is_whole_though_others_create_and_delete_indices_meanwhile() {
    for server in Server::each().await {
        let steady = server.index(json!({"settings": settings(1)})).await;
        let others = async {
            for _ in 0..20 {
                let pair = [server.unused_index(), server.unused_index()];
                let body = json!({"settings": settings(1)});
                let create = |index| server.cluster.create_index(index, &body);
                assert!(tokio::try_join!(create(&pair[0]), create(&pair[1])).unwrap() == (true, true));
                let delete = |index| server.cluster.delete_index(index);
                tokio::try_join!(delete(&pair[0]), delete(&pair[1])).unwrap();
            }
        };
        let lists = async {
            loop {
                let entries = server.cluster.resolve().await.unwrap();
                let is_steady = |entry: &CatalogEntry| matches!(entry, CatalogEntry::Index { name, .. } if name == &*steady);
                assert!(entries.iter().any(is_steady), "{entries:?}");
            }
        };
        tokio::select! {
            () = others => {}
            () = lists => unreachable!("it ends with the others"),
        }
    }
}

#[tokio::test]
async fn an_index_is_described_by_its_settings_and_mapping() {
    for server in Server::each().await {
        let mut some = settings(3);
        some["max_result_window"] = json!(2000);
        let mappings = json!({"_source": {"excludes": ["x"]}, "properties": {"embedding": {"type": "dense_vector", "dims": 4}}});
        let partial = server.index(json!({"settings": some, "mappings": mappings})).await;
        let plain = server.index(json!({"settings": settings(1)})).await;
        let closed = server.index(json!({"settings": settings(1)})).await;
        server.ask("POST", &format!("/{}/_close", *closed), None);
        let names = [partial.clone(), plain.clone(), closed.clone(), server.unused_index().clone()];
        let infos = server.cluster.describe(&names).await.unwrap();
        assert_eq!(infos.len(), 3, "closed ones too, missing ones not");

        let info = &infos[&*partial];
        assert_eq!((info.shards, info.max_result_window), (3, 2000));
        assert!(!info.source_complete && info.seq_no_searchable && !info.write_blocked);
        assert_eq!(info.mapping["properties"]["embedding"]["type"], "dense_vector");
        assert_eq!(info.settings["index.number_of_shards"], "3");
        let info = &infos[&*plain];
        assert_eq!(info.max_result_window, 10_000);
        assert!(info.source_complete);
        assert_eq!(info.vectors_hidden, server.flavor == Flavor::V9);
        assert_eq!(info.created.major, server.cluster.version().major);
        let stats = server.cluster.primary_stats(&[plain.clone()]).await.unwrap();
        let shards = stats[&*plain].as_ref().unwrap();
        assert_eq!((shards.len(), &shards[0].index_uuid), (1, &info.uuid));
        assert_eq!((shards[0].global_checkpoint, shards[0].docs), (-1, 0));
        assert!(shards[0].history_uuid.len() > 10);
    }
}

#[tokio::test]
async fn long_lists_are_split_and_only_what_is_missing_is_left_out() {
    for server in Server::each().await {
        let mut existing = Vec::new();
        for _ in 0..12 {
            existing.push(server.index(json!({"settings": settings(1)})).await);
        }
        let mut names: Vec<IndexName> = existing.iter().map(|index| (**index).clone()).collect();
        let absent = |n: usize| IndexName::parse(&format!("elastic-absent-{n}-{}", "é".repeat(30))).unwrap();
        names.extend((0..488).map(absent));
        names.sort();
        assert_eq!(server.cluster.describe(&names).await.unwrap().len(), 12);
        // Those that exist, and some that do not, over several requests.
        names.retain(|name| !name.as_str().ends_with('é') || name.as_str().contains("-7"));
        assert_eq!(server.cluster.primary_stats(&names).await.unwrap().len(), 12);
        server.cluster.refresh(&names).await.unwrap();
        server.cluster.refresh(&[]).await.unwrap();
    }
}

#[tokio::test]
async fn an_index_that_is_hidden_from_us_is_forbidden_and_never_missing() {
    for server in Server::each().await {
        let visible = server.index(json!({"settings": settings(1)})).await;
        let hidden = server.index(json!({"settings": settings(1)})).await;
        write(&server, &visible, &[("a".into(), json!({"n": 1}))]).await;
        let privileges = ["read", "view_index_metadata", "monitor"];
        let limited = server.limited(json!([{"names": [visible.as_str()], "privileges": privileges}])).await;
        let both = [visible.clone(), hidden.clone()];
        for error in [
            limited.describe(&both).await.unwrap_err(),
            limited.describe_each(&both[1..]).await.unwrap_err(),
            limited.primary_stats(&both[1..]).await.unwrap_err(),
            limited.refresh(&[visible.clone()]).await.unwrap_err(),
            limited.count(&hidden).await.unwrap_err(),
            limited.delete_index(&visible).await.unwrap_err(),
        ] {
            assert_eq!(error.category(), ErrorCategory::Forbidden, "{error}");
        }
        assert_eq!(limited.count(&visible).await.unwrap(), 1);

        let wanted: [&str; 3] = ["read", "maintenance", "monitor"];
        let missing = limited
            .missing_privileges(
                &[(visible.as_str(), &wanted), (hidden.as_str(), &["read"])],
                &["monitor", "manage"],
            )
            .await
            .unwrap();
        let mut expected = vec![
            "cluster: manage".to_owned(),
            format!("{}: maintenance", *visible),
            format!("{}: read", *hidden),
        ];
        expected.sort();
        assert_eq!(missing, expected);
        let all = server.cluster.missing_privileges(&[("*", &wanted)], &["manage"]).await.unwrap();
        assert!(all.is_empty(), "{all:?}");
    }
}

#[tokio::test]
async fn one_index_of_many_that_is_refused_is_named_and_the_others_are_told() {
    for server in Server::each().await {
        let mut shown = Vec::new();
        for _ in 0..4 {
            shown.push(server.index(json!({"settings": settings(1)})).await);
        }
        let names: Vec<&str> = shown.iter().map(|index| index.as_str()).collect();
        let privileges = ["read", "view_index_metadata", "monitor"];
        let limited = server.limited(json!([{"names": names, "privileges": privileges}])).await;
        let hidden = server.index(json!({"settings": settings(1)})).await;
        let gone = server.unused_index();
        let mut all: Vec<IndexName> = shown.iter().map(|index| (**index).clone()).collect();
        all.insert(2, hidden.clone());

        let mut stats = limited.primary_stats(&all).await.unwrap();
        let mut infos = limited.describe_each(&all).await.unwrap();
        for error in
            [stats.remove(&*hidden).unwrap().unwrap_err(), infos.remove(&*hidden).unwrap().unwrap_err()]
        {
            assert_eq!(error.category(), ErrorCategory::Forbidden, "{error}");
            assert!(error.to_string().contains(hidden.as_str()), "{error}");
        }
        assert_eq!((stats.len(), infos.len()), (4, 4));
        assert!(stats.values().all(Result::is_ok) && infos.values().all(Result::is_ok));
        // What is not there is refused too, to who may not see it, and missing for who may.
        let with_gone = [all[0].clone(), gone.clone()];
        assert!(limited.primary_stats(&with_gone).await.unwrap()[&*gone].is_err());
        assert!(!server.cluster.primary_stats(&with_gone).await.unwrap().contains_key(&*gone));
    }
}

#[tokio::test]
async fn aliases_that_leave_out_a_part_of_an_index_are_told_apart() {
    for server in Server::each().await {
        let (index, other) = (
            server.index(json!({"settings": settings(1)})).await,
            server.index(json!({"settings": settings(1)})).await,
        );
        let [whole, filtered, routed, written] = [(); 4].map(|()| server.unused_index());
        let add = |alias: &Index, how: serde_json::Value| {
            let mut action = json!({"index": index.as_str(), "alias": alias.as_str()});
            action.as_object_mut().unwrap().extend(how.as_object().unwrap().clone());
            json!({"add": action})
        };
        let actions = json!([
            add(&whole, json!({})),
            add(&filtered, json!({"filter": {"term": {"n": 1}}})),
            add(&routed, json!({"routing": "a"})),
            add(&written, json!({"index_routing": "a"})),
        ]);
        server.cluster.update_aliases(&actions).await.unwrap();
        let missing = server.unused_index();
        let names = [index.clone(), other.clone(), missing.clone()];
        let mut expected = [filtered.to_string(), routed.to_string()];
        expected.sort();
        let partial = server.cluster.partial_aliases(&names).await.unwrap();
        assert_eq!(partial.into_iter().collect::<Vec<_>>(), expected);
        assert!(server.cluster.partial_aliases(&[other.clone()]).await.unwrap().is_empty());
        assert!(server.cluster.partial_aliases(&[]).await.unwrap().is_empty());
        // Who may see the alias and the index is told the same; of an index that is refused nothing is told.
        let privileges = ["view_index_metadata"];
        let limited = server
            .limited(json!([{"names": [index.as_str(), filtered.as_str()], "privileges": privileges}]))
            .await;
        let both = [index.clone(), other.clone()];
        let partial = limited.partial_aliases(&both).await.unwrap();
        assert_eq!(partial.into_iter().collect::<Vec<_>>(), [filtered.to_string()]);
    }
}

#[tokio::test]
async fn a_role_that_shows_indices_whole_keeps_nothing_from_us() {
    for server in Server::each().await {
        let names = ["elastic-test-1".to_owned(), "42".to_owned()];
        assert!(server.cluster.parts_kept_from_us(&names).await.unwrap().is_empty());
        let limited = server.limited(json!([{"names": ["/[0-9]+/"], "privileges": ["read"]}])).await;
        assert!(limited.parts_kept_from_us(&names).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn counts_by_a_field_are_exact_beyond_one_page() {
    for server in Server::each().await {
        let mappings = json!({"properties": {"collection_id": {"type": "integer"}}});
        let index = server.index(json!({"settings": settings(2), "mappings": mappings})).await;
        let mut chunks: Vec<_> =
            (0..5000).map(|n| (format!("c{n}"), json!({"collection_id": (n % 2500) - 3}))).collect();
        chunks.push(("without".into(), json!({"other": 1})));
        write(&server, &index, &chunks).await;
        let counts = server.cluster.count_by(&index, "collection_id").await.unwrap();
        assert_eq!(counts.len(), 2500);
        assert_eq!((counts.keys().next(), counts.keys().last()), (Some(&-3), Some(&2496)));
        assert!(counts.values().all(|count| *count == 2));
        assert_eq!(server.cluster.count(&index).await.unwrap(), 5001);
        let empty = server.index(json!({"settings": settings(1), "mappings": mappings})).await;
        assert!(server.cluster.count_by(&empty, "collection_id").await.unwrap().is_empty());
        let error = server.cluster.count_by(&server.unused_index(), "collection_id").await.unwrap_err();
        assert!(error.is_missing_index(), "{error}");
    }
}

#[tokio::test]
async fn the_health_of_an_index_is_that_of_its_copies() {
    for server in Server::each().await {
        let green = server.index(json!({"settings": settings(1)})).await;
        assert_eq!(server.cluster.health(&green).await.unwrap().status, Health::Green);
        let mut replicated = settings(1);
        replicated["number_of_replicas"] = json!(5);
        let yellow = server.index(json!({"settings": replicated})).await;
        assert_eq!(server.cluster.health(&yellow).await.unwrap().status, Health::Yellow);
        let error = server.cluster.health(&server.unused_index()).await.unwrap_err();
        assert_eq!(error.category(), ErrorCategory::NotFound, "{error}");
    }
}
