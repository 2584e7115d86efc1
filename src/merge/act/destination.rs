//! The destination index: created or adopted, set up for the load, put back for service.
//!
//! Intent before effect: what the load changes is in the memo before it is changed on the server.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::set_back::outnumber;
use super::{handover, writer_alias};
use crate::chunk::{self, IndexSpec, differences, index_body};
use crate::elastic::{ErrorCategory, IndexInfo, Version};
use crate::merge::engine::Engine;
use crate::merge::error::{MergeCategory, MergeError, Problem};
use crate::merge::memo::{DestinationMemo, GraphMemo, Memo};
use crate::merge::observe::parse_memo;
use crate::merge::valid::{Destination, ValidMerge};
use crate::state::{SourceDeletion, SourceRow};

/// How long deletions are remembered while the merge runs: a late write of a deleted chunk is refused.
const GC_DELETES: &str = "1h";
/// Settings that hold as long as this merge writes, not only while it loads: deletions are remembered, and what is
/// acknowledged is on disk.
const HELD_TO_THE_END: [&str; 2] = ["index.gc_deletes", "index.translog.durability"];
/// The mapping's `index_options` while loading, where the graph is deferred.
const FLAT: &str = "flat";
/// The field of the resource that says what the destination is to be.
const INDEX: &str = "spec.destination.index";
/// What is not in `_source` is neither compared nor kept when a document is written again. The defaults of the index's
/// mode count too.
const SOURCE_INCOMPLETE: &str = "`_source` is not kept whole (`_source` of the mapping, index.mapping.source.mode or \
     index.mode), wanted as it is sent; choose another spec.destination.index.name, or delete that index if nothing \
     needs it";
/// Before what is wrong with an index that was made a moment ago.
const BY_A_TEMPLATE: &str = "the merge made that index just now, and takes it back unless somebody wrote to it, as it is \
     not what was asked for: most likely an index template for its name has its say; change that template, or add one \
     of a higher priority for this name that says nothing of the kind, and the index is made anew";

/// Creates the destination or adopts an existing one that fits; either way it ends up ready for the load.
pub(super) async fn prepare(engine: &Engine, spec: &ValidMerge) -> Result<(), MergeError> {
    let name = &spec.destination.index;
    let version = engine.destination.version();
    let wanted = index_spec(&spec.destination, version);
    let described =
        engine.destination.describe(std::slice::from_ref(name)).await.map_err(MergeError::Destination)?;
    let memo = parse_memo(&engine.merge_row().await?)?;
    match (described.get(name), memo.destination) {
        (Some(info), Some(ours)) if ours.uuid == info.uuid.0 => {}
        (Some(info), known) => adopt(engine, spec, &wanted, info, known).await?,
        (None, known) => {
            if !create(engine, &wanted).await? {
                // Made in this moment, by somebody else or by a request whose answer was lost.
                adopt(engine, spec, &wanted, &described_now(engine).await?, known).await?;
            }
        }
    }
    apply_load_settings(engine).await?;
    add_writer_alias(engine).await
}

/// What the index must be. The graph is deferred where the wanted options allow to load as `flat`.
pub(in crate::merge) fn index_spec(destination: &Destination, version: Version) -> IndexSpec {
    let index_options = pinned_index_options(destination, version);
    let load_options = defers_graph(&index_options, version).then(|| json!({"type": FLAT}));
    IndexSpec {
        contract: destination.contract,
        language: destination.language,
        shards: destination.shards,
        replicas: destination.replicas,
        vector_size: destination.vector_size,
        index_options,
        also_fitting: if destination.index_options.is_some() { Vec::new() } else { pinned_by_any_version() },
        load_options,
    }
}

/// The types of index options, the best first.
const BEST: [&str; 3] = ["bbq_hnsw", "int8_hnsw", "hnsw"];

/// The `index_options` of the spec, or the best that this server has: never left to its default, which
/// differs between versions.
pub(in crate::merge) fn pinned_index_options(destination: &Destination, version: Version) -> Value {
    let [bbq, int8, plain] = BEST;
    destination.index_options.clone().unwrap_or_else(|| {
        // What the server itself would choose from 9.1 on (bbq_hnsw for 384 dimensions or more), and before.
        let kind = if version.at_least(9, 1) && destination.vector_size >= 384 {
            bbq
        } else if version.at_least(8, 14) {
            int8
        } else {
            plain
        };
        json!({"type": kind})
    })
}

/// An index keeps the options that were the best when it was made, though its server be upgraded since.
fn pinned_by_any_version() -> Vec<Value> {
    BEST.iter().map(|kind| json!({"type": kind})).collect()
}

/// `flat` can be updated to every other type; to the bbq types only from 8.19 and 9.1, not in 9.0.
fn defers_graph(index_options: &Value, version: Version) -> bool {
    let kind = index_options["type"].as_str().unwrap_or(FLAT);
    let bbq = kind.starts_with("bbq");
    let updatable = version.at_least(8, 15)
        && (!bbq || version.at_least(9, 1) || version.major == 8 && version.minor >= 19);
    kind != FLAT && updatable
}

/// False if it is there already. One that is not as it was asked for, because an index template has its say, is taken
/// back before anything is written to it.
async fn create(engine: &Engine, wanted: &IndexSpec) -> Result<bool, MergeError> {
    let name = &engine.merge.destination.index;
    let created =
        engine.destination.create_index(name, &index_body(wanted)).await.map_err(MergeError::Destination)?;
    if !created {
        return Ok(false);
    }
    let info = described_now(engine).await?;
    let mut problems = objections(wanted, &info);
    if !problems.is_empty() {
        take_back(engine).await?;
        problems.insert(0, Problem::new(INDEX, BY_A_TEMPLATE));
        return Err(MergeError::Problems { category: MergeCategory::DestinationMismatch, problems });
    }
    tracing::info!(index = %name, "the destination is created");
    remember(engine, wanted, &info, true).await?;
    Ok(true)
}

/// Deletes the index that was made a moment ago, unless somebody has written to it since.
async fn take_back(engine: &Engine) -> Result<(), MergeError> {
    let name = &engine.merge.destination.index;
    engine.destination.refresh(std::slice::from_ref(name)).await.map_err(MergeError::Destination)?;
    if engine.destination.count(name).await.map_err(MergeError::Destination)? > 0 {
        tracing::warn!(index = %name, "the index does not fit, and is kept as somebody has written to it");
        return Ok(());
    }
    engine.destination.delete_index_at_once(name).await.map_err(MergeError::Destination)?;
    tracing::warn!(index = %name, "the index does not fit as it was made, and is deleted again");
    Ok(())
}

/// What keeps that index from being the destination; nothing if it fits.
pub(in crate::merge) fn misfits(wanted: &IndexSpec, info: &IndexInfo) -> Vec<Problem> {
    let mut found = differences(wanted, &info.mapping, &Value::Object(info.settings.clone()));
    if !info.source_complete {
        found.push(SOURCE_INCOMPLETE.to_owned());
    }
    found.into_iter().map(|text| Problem::new(INDEX, text)).collect()
}

/// What would alter or take away what is written to that index. It may be put on at any time, so it is looked for before the
/// first chunk is written; what is altered later is found by the comparison.
pub(in crate::merge) fn interferences(info: &IndexInfo) -> Vec<Problem> {
    let found = chunk::interferences(&Value::Object(info.settings.clone()));
    found.into_iter().map(|text| Problem::new(INDEX, text)).collect()
}

/// Why that index is not taken for the destination; nothing if it is.
fn objections(wanted: &IndexSpec, info: &IndexInfo) -> Vec<Problem> {
    let mut problems = misfits(wanted, info);
    problems.extend(interferences(info));
    problems
}

/// The destination as it is.
pub(super) async fn described_now(engine: &Engine) -> Result<IndexInfo, MergeError> {
    let name = &engine.merge.destination.index;
    let described = engine.destination.describe(std::slice::from_ref(name)).await;
    described.map_err(MergeError::Destination)?.remove(name).ok_or_else(|| lost(engine))
}

/// Claims are kept in the state database, so one with another state shows only by the alias of its workers. Each would
/// delete what the other one copied.
fn is_written_by_another(engine: &Engine) -> MergeError {
    let text = format!(
        "the index has the alias {}, so a merge with another state database writes to it; end that one first, or, if there is none any more, remove the alias",
        writer_alias(&engine.merge)
    );
    let problems = vec![Problem::new("spec.destination.index.name", text)];
    MergeError::Problems { category: MergeCategory::DestinationMismatch, problems }
}

/// An existing index is taken if everything in it fits; otherwise every difference is reported. `known`: what the memo says of
/// one of that name.
async fn adopt(
    engine: &Engine,
    spec: &ValidMerge,
    wanted: &IndexSpec,
    info: &IndexInfo,
    known: Option<DestinationMemo>,
) -> Result<(), MergeError> {
    if known.is_none() && info.aliases.contains(&writer_alias(&engine.merge)) {
        return Err(is_written_by_another(engine));
    }
    let name = &engine.merge.destination.index;
    let mut problems = objections(wanted, info);
    problems.extend(handover::objection(spec, info));
    if !problems.is_empty() {
        return Err(MergeError::Problems { category: MergeCategory::DestinationMismatch, problems });
    }
    tracing::info!(index = %name, "the destination exists and fits");
    // What an earlier merge left there must not win over what this one copies.
    let last = engine.merge_row().await?.pass;
    outnumber(engine, last, last).await?;
    remember(engine, wanted, info, known.is_some_and(|known| known.created)).await
}

/// Writes into the memo which index it is, as it was looked at, and what the load will change on it.
async fn remember(
    engine: &Engine,
    wanted: &IndexSpec,
    info: &IndexInfo,
    created: bool,
) -> Result<(), MergeError> {
    let histories = histories(engine).await?;
    let explicit = |setting: &str| info.settings.get(setting).cloned().unwrap_or(Value::Null);
    let mut put_back = BTreeMap::new();
    let version = engine.destination.version();
    for setting in load_settings().into_keys().chain(parallel_merge(version).map(str::to_owned)) {
        let before = explicit(&setting);
        put_back.insert(setting, before);
    }
    if created {
        put_back.insert("index.number_of_replicas".to_owned(), json!(wanted.replicas));
    }
    let defers = has_flat_vectors(info) && wanted.load_options.is_some();
    let graph = if defers { GraphMemo::Loading } else { GraphMemo::Direct };
    engine
        .edit_memo(|memo| {
            memo.destination = Some(DestinationMemo {
                uuid: info.uuid.0.clone(),
                created,
                put_back,
                settled: false,
                was_set_back: false,
                histories,
            });
            memo.graph = graph;
        })
        .await
        .map(drop)
}

/// The history of each shard of the destination.
async fn histories(engine: &Engine) -> Result<BTreeMap<i32, String>, MergeError> {
    let name = &engine.merge.destination.index;
    let mut stats = engine
        .destination
        .primary_stats(std::slice::from_ref(name))
        .await
        .map_err(MergeError::Destination)?;
    let shards = stats.remove(name).ok_or_else(|| lost(engine))?.map_err(MergeError::Destination)?;
    Ok(shards.into_iter().map(|shard| (shard.shard, shard.history_uuid)).collect())
}

/// Whether the destination still holds what was written to it, as far as its shards' histories say. One that was set
/// back to an older state under its own name (a restored snapshot, a stale copy that was forced to be the primary) has
/// lost what came after; everything is compared again then, which writes again what is missing or old.
pub(super) async fn still_holds_what_was_written(engine: &Engine) -> Result<bool, MergeError> {
    let memo = parse_memo(&engine.merge_row().await?)?;
    let Some(destination) = memo.destination else { return Err(lost(engine)) };
    let now = histories(engine).await?;
    if now == destination.histories {
        return Ok(true);
    }
    let known = !destination.histories.is_empty();
    let mut loads = Load::default();
    if known {
        tracing::warn!("the destination was set back to an older state: everything is compared again");
        engine.state.verify_again(engine.id).await?;
        loads = Load::of(engine).await?;
    }
    engine
        .edit_memo(|memo| {
            if let Some(destination) = &mut memo.destination {
                destination.histories = now;
                destination.was_set_back |= known;
                destination.settled &= !loads.has_settings;
            }
            if loads.has_flat_vectors && memo.graph == GraphMemo::Built {
                memo.graph = GraphMemo::Loading;
            }
        })
        .await?;
    Ok(!known)
}

/// What the destination has of its load, though it was fit for service before.
#[derive(Debug, Clone, Copy, Default)]
struct Load {
    has_settings: bool,
    has_flat_vectors: bool,
}

impl Load {
    async fn of(engine: &Engine) -> Result<Load, MergeError> {
        let name = &engine.merge.destination.index;
        let described =
            engine.destination.describe(std::slice::from_ref(name)).await.map_err(MergeError::Destination)?;
        let info = described.get(name).ok_or_else(|| lost(engine))?;
        let has_flat_vectors = has_flat_vectors(info);
        let refreshes_never = info.settings.get("index.refresh_interval").is_some_and(|every| every == "-1");
        Ok(Load { has_settings: refreshes_never || has_flat_vectors, has_flat_vectors })
    }
}

fn has_flat_vectors(info: &IndexInfo) -> bool {
    let kind = info.mapping.pointer("/properties/embedding/index_options/type");
    kind.and_then(Value::as_str) == Some(FLAT)
}

/// Settings under which an index loads fastest without any risk to acknowledged writes: the translog is synchronous,
/// whatever an adopted index said, as a checkpoint rests on an acknowledgement.
fn load_settings() -> BTreeMap<String, Value> {
    BTreeMap::from([
        ("index.number_of_replicas".to_owned(), json!(0)),
        // Would add them again.
        ("index.auto_expand_replicas".to_owned(), json!("false")),
        ("index.refresh_interval".to_owned(), json!("-1")),
        ("index.merge.scheduler.auto_throttle".to_owned(), json!(false)),
        ("index.gc_deletes".to_owned(), json!(GC_DELETES)),
        ("index.translog.durability".to_owned(), json!("request")),
    ])
}

/// Lets the server build the graph of one segment with all its threads for merges; otherwise one thread builds it,
/// however many cores are idle. In the servers since 9.4 and off by default; nobody depends on its being there.
fn parallel_merge(version: Version) -> Option<&'static str> {
    version.at_least(9, 4).then_some("index.merge.intra_merge_parallelism_enabled")
}

async fn apply_load_settings(engine: &Engine) -> Result<(), MergeError> {
    let names = std::slice::from_ref(&engine.merge.destination.index);
    let settings = load_settings();
    engine.destination.put_settings(names, &json!(settings)).await.map_err(MergeError::Destination)?;
    let Some(optional) = parallel_merge(engine.destination.version()) else { return Ok(()) };
    match engine.destination.put_settings(names, &json!({optional: true})).await {
        // A server that does not know it (any more) would not let it be put back either.
        Err(error) if error.category() == ErrorCategory::Invalid => {
            tracing::info!(%error, "the server does not build a graph with several threads");
            let forget = |memo: &mut Memo| {
                if let Some(destination) = &mut memo.destination {
                    destination.put_back.remove(optional);
                }
            };
            engine.edit_memo(forget).await.map(drop)
        }
        result => result.map_err(MergeError::Destination),
    }
}

async fn add_writer_alias(engine: &Engine) -> Result<(), MergeError> {
    let add = json!({"add": {
        "index": engine.merge.destination.index.as_str(),
        "alias": writer_alias(&engine.merge),
        "is_write_index": true,
        "is_hidden": true,
    }});
    engine.destination.update_aliases(&json!([add])).await.map_err(MergeError::Destination)
}

/// Takes the alias through which workers write away: from now on nothing that one of them still holds arrives.
pub(super) async fn stop_workers_writing(engine: &Engine) -> Result<(), MergeError> {
    engine.edit_memo(|memo| memo.workers_stopped = true).await?;
    remove_writer_alias(engine).await
}

/// The way back from [`stop_workers_writing`], if that was done.
pub(super) async fn let_workers_write(engine: &Engine) -> Result<(), MergeError> {
    if !parse_memo(&engine.merge_row().await?)?.workers_stopped {
        return Ok(());
    }
    // Also what holds as long as this merge writes: it may have been put back for an end that did not come.
    let held: BTreeMap<String, Value> = load_settings()
        .into_iter()
        .filter(|(setting, _)| HELD_TO_THE_END.contains(&setting.as_str()))
        .collect();
    let names = std::slice::from_ref(&engine.merge.destination.index);
    engine.destination.put_settings(names, &json!(held)).await.map_err(MergeError::Destination)?;
    add_writer_alias(engine).await?;
    let let_write = |memo: &mut Memo| {
        memo.workers_stopped = false;
        // That nothing is written late was found out for what was there by then.
        memo.cutover.keys_reconciled = false;
        memo.verdict.take_if(|verdict| verdict.positive);
    };
    engine.edit_memo(let_write).await.map(drop)
}

async fn remove_writer_alias(engine: &Engine) -> Result<(), MergeError> {
    let remove = json!({"remove": {
        "index": engine.merge.destination.index.as_str(),
        "alias": writer_alias(&engine.merge),
        "must_exist": false,
    }});
    match engine.destination.update_aliases(&json!([remove])).await {
        // A request of nothing but removals of which none is there is answered so in spite of `must_exist`.
        Err(error) if error.category() == ErrorCategory::NotFound => Ok(()),
        result => result.map_err(MergeError::Destination),
    }
}

/// Puts the load's settings back, but for those that hold as long as this merge writes.
pub(super) async fn settle(engine: &Engine, spec: &ValidMerge) -> Result<(), MergeError> {
    let memo = parse_memo(&engine.merge_row().await?)?;
    let Some(destination) = memo.destination else { return Err(lost(engine)) };
    let mut settings = destination.put_back;
    settings.retain(|setting, _| !HELD_TO_THE_END.contains(&setting.as_str()));
    if destination.created {
        // `numberOfReplicas` may have been changed while loading: the spec's present value holds.
        settings.insert("index.number_of_replicas".to_owned(), json!(spec.destination.replicas));
    }
    let name = &engine.merge.destination.index;
    let names = std::slice::from_ref(name);
    engine.destination.put_settings(names, &json!(settings)).await.map_err(MergeError::Destination)?;
    engine.destination.refresh(names).await.map_err(MergeError::Destination)?;
    engine
        .edit_memo(|memo| {
            if let Some(destination) = &mut memo.destination {
                destination.settled = true;
            }
        })
        .await
        .map(drop)
}

/// Everything that the load changed, and our alias: at the end, and when the resource goes away. An index that
/// is gone has nothing to put back.
pub(super) async fn put_everything_back(engine: &Engine) -> Result<(), MergeError> {
    let memo = parse_memo(&engine.merge_row().await?)?;
    let Some(destination) = memo.destination else { return Ok(()) };
    let name = &engine.merge.destination.index;
    let names = std::slice::from_ref(name);
    let described = engine.destination.describe(names).await.map_err(MergeError::Destination)?;
    if described.get(name).is_none_or(|info| info.uuid.0 != destination.uuid) {
        return Ok(());
    }
    let settings: BTreeMap<&String, &Value> = if destination.settled {
        destination
            .put_back
            .iter()
            .filter(|(setting, _)| HELD_TO_THE_END.contains(&setting.as_str()))
            .collect()
    } else {
        destination.put_back.iter().collect()
    };
    engine.destination.put_settings(names, &json!(settings)).await.map_err(MergeError::Destination)?;
    if matches!(memo.graph, GraphMemo::Loading) {
        // Left unfinished: the wanted options at least hold for everything that is written from now on.
        let wanted = index_spec(&engine.merge.destination, engine.destination.version());
        super::graph::put_index_options(engine, &wanted.index_options).await?;
    }
    remove_writer_alias(engine).await
}

/// Deletes the destination if this merge created it, it still is that index, the sources are there to make it anew, and
/// nobody handed it over of whom the memo knows nothing.
pub(super) async fn delete(engine: &Engine) -> Result<(), MergeError> {
    let memo = parse_memo(&engine.merge_row().await?)?;
    let Some(destination) = memo.destination.as_ref().filter(|destination| destination.created) else {
        return Ok(());
    };
    let is_away = |source: &SourceRow| {
        matches!(source.deletion, Some(SourceDeletion::Intended | SourceDeletion::Deleted))
    };
    let name = &engine.merge.destination.index;
    let keep = |why: &str| {
        tracing::warn!(
            index = %name,
            why,
            "the destination is kept although spec.deletionPolicy says otherwise; delete it yourself if nobody needs it"
        );
    };
    if engine.state.sources(engine.id).await?.iter().any(is_away) {
        keep("source indices were deleted, so it is the only copy");
        return Ok(());
    }
    let described =
        engine.destination.describe(std::slice::from_ref(name)).await.map_err(MergeError::Destination)?;
    let Some(info) = described.get(name).filter(|info| info.uuid.0 == destination.uuid) else {
        return Ok(());
    };
    if handover::is_marked_by_another(engine, &memo, info) {
        keep("it was handed over to applications, and the state database does not remember that");
        return Ok(());
    }
    engine.destination.delete_index(name).await.map(drop).map_err(MergeError::Destination)
}

/// Whether the index that this merge prepared is gone, or another one has its name.
pub(in crate::merge) async fn is_destination_lost(engine: &Engine) -> Result<bool, MergeError> {
    let memo = parse_memo(&engine.merge_row().await?)?;
    let Some(prepared) = memo.destination else { return Ok(false) };
    let name = &engine.merge.destination.index;
    let described =
        engine.destination.describe(std::slice::from_ref(name)).await.map_err(MergeError::Destination)?;
    Ok(described.get(name).is_none_or(|info| info.uuid.0 != prepared.uuid))
}

/// The destination that the memo speaks of is not there.
pub(in crate::merge) fn lost(engine: &Engine) -> MergeError {
    MergeError::DestinationLost(format!(
        "the destination index {} is gone; restore it, or delete the resource and start anew",
        engine.merge.destination.index
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use super::*;
    use crate::elastic::IndexUuid;
    use crate::merge::valid::test_merge;

    fn wanted() -> IndexSpec {
        index_spec(&test_merge().destination, Version::new(9, 4, 3))
    }

    /// The index as it was asked for.
    fn info() -> IndexInfo {
        let body = index_body(&wanted());
        let settings = json!({"index": body["settings"]});
        IndexInfo {
            uuid: IndexUuid("uuid".to_owned()),
            shards: 1,
            created: Version::new(9, 4, 3),
            vectors_hidden: true,
            source_complete: true,
            seq_no_searchable: true,
            write_blocked: false,
            max_result_window: 10_000,
            aliases: BTreeSet::new(),
            mapping: body["mappings"].clone(),
            settings: settings.as_object().unwrap().clone(),
        }
    }

    fn texts(problems: &[Problem]) -> Vec<&str> {
        problems.iter().map(|problem| problem.message.as_str()).collect()
    }

    #[test]
    fn an_index_as_it_was_asked_for_is_taken() {
        assert_eq!(objections(&wanted(), &info()), Vec::<Problem>::new());
    }

    #[test]
    fn an_index_that_was_made_before_its_server_was_upgraded_is_taken_unless_options_are_asked_for() {
        let before = Version::new(8, 19, 8);
        let options = |merge: &ValidMerge| index_spec(&merge.destination, before).index_options;
        let merge = ValidMerge {
            destination: Destination { index_options: None, ..test_merge().destination },
            ..test_merge()
        };
        let mut old = info();
        old.mapping["properties"]["embedding"]["index_options"] = options(&merge);
        let after = index_spec(&merge.destination, Version::new(9, 4, 3));
        assert_ne!(options(&merge), after.index_options);
        assert_eq!(misfits(&after, &old), Vec::<Problem>::new());
        let asked = Destination { index_options: Some(after.index_options), ..merge.destination };
        assert_eq!(misfits(&index_spec(&asked, Version::new(9, 4, 3)), &old).len(), 1);
    }

    #[test]
    fn an_index_whose_source_is_not_kept_whole_does_not_fit() {
        let partial = IndexInfo { source_complete: false, ..info() };
        assert_eq!(texts(&misfits(&wanted(), &partial)), [SOURCE_INCOMPLETE]);
    }

    #[test]
    fn what_may_be_put_on_at_any_time_is_an_objection_and_no_misfit() {
        let mut touched = info();
        touched.settings.insert("index.final_pipeline".to_owned(), json!("shorten"));
        touched.settings.insert("index.lifecycle.name".to_owned(), json!("a-month"));
        assert_eq!(misfits(&wanted(), &touched), Vec::<Problem>::new());
        let found = objections(&wanted(), &touched);
        let told = texts(&found);
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].contains("`shorten`") && told[1].contains("`a-month`"), "{told:?}");
    }
}
