//! What people are told of each state.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;

use super::*;
use crate::merge::memo::{Memo, NewcomersMemo, VerdictMemo};
use crate::merge::observe::test_observation;
use crate::merge::valid::test_merge;
use crate::state::{Counts, MergeRow, SourceRow, Totals};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

/// A merge of one collection with 310 chunks, all of them copied and none compared.
struct World {
    spec: ValidMerge,
    seen: Observation,
    rows: Rows,
}

impl World {
    fn in_phase(phase: Phase) -> World {
        let seen = Observation { phase, ..test_observation(GraphMemo::Direct) };
        let merge = MergeRow {
            id: uuid::Uuid::nil(),
            owner: "default/test".to_owned(),
            destination_cluster: "destination".to_owned(),
            destination_index: "merged".to_owned(),
            identity: String::new(),
            phase: phase.as_str().to_owned(),
            pass: 0,
            memo: serde_json::Value::Null,
            retry_token: String::new(),
            started_at: at(0),
            completed_at: None,
            phase_since: at(0),
            released_at: None,
        };
        let source = SourceRow {
            id: 1,
            collection_id: 7,
            index_name: "7".to_owned(),
            index_uuid: "uuid".to_owned(),
            shards: 1,
            generation: 0,
            documents: 310,
            bytes: 1,
            state: SourceState::Active,
            attention: None,
            blocked_by_us: false,
            cuts: BTreeMap::new(),
            deletion: None,
        };
        let totals = Totals { copy: done(310), ..Totals::default() };
        let rows = Rows {
            merge,
            memo: Memo::default(),
            sources: vec![source],
            totals,
            quarantine: BTreeMap::new(),
            sources_open: 0,
        };
        World { spec: test_merge(), seen, rows }
    }

    fn counting(mut self) -> World {
        self.spec.verification = Verification::Counts;
        self
    }

    fn judged(mut self, counted_only: bool) -> World {
        let verdict = VerdictMemo {
            positive: true,
            collections: 1,
            unequal: 0,
            quarantined: 0,
            unknown_documents: 0,
            counted_only,
            message: "all is well".to_owned(),
            basis: self.spec.verdict_basis(),
        };
        self.rows.memo.verdict = Some(verdict.clone());
        self.seen.verdict = Some(verdict);
        self
    }

    fn report(&self, now: Timestamp) -> Report {
        let World { spec, seen, rows } = self;
        let inputs = Inputs { spec, seen, rows, next: Next::Now, waiting: None, lanes: None, now };
        report(&inputs, &mut Pace::default())
    }

    /// Status and reason of `Verified`.
    fn verified(&self) -> (bool, &'static str) {
        let facts = self.report(at(60)).facts;
        let fact = facts.iter().find(|fact| fact.kind == FactKind::Verified).unwrap();
        (fact.status.unwrap(), fact.reason)
    }
}

/// A walk that is done.
fn done(documents: i64) -> KindTotals {
    KindTotals {
        units: 1,
        units_done: 1,
        positions_total: documents,
        positions_done: documents,
        counts: Counts { documents, ..Counts::default() },
        ..KindTotals::default()
    }
}

#[test]
fn what_is_only_counted_is_not_called_verified() {
    for phase in [Phase::Copying, Phase::Verifying, Phase::Synced, Phase::CuttingOver] {
        assert_eq!(World::in_phase(phase).counting().verified(), (false, "CountedOnly"), "{phase}");
    }
    assert_eq!(World::in_phase(Phase::Verifying).verified(), (false, "InProgress"));
    assert_eq!(World::in_phase(Phase::Synced).verified(), (true, "Compared"));
    let message = World::in_phase(Phase::Verifying).counting().report(at(60)).message;
    assert_eq!(message, "compares nothing: the chunks are counted in the cutover");
}

#[test]
fn a_verdict_says_how_it_was_made_whatever_the_spec_says_later() {
    assert_eq!(World::in_phase(Phase::Completed).counting().judged(false).verified(), (true, "Compared"));
    assert_eq!(World::in_phase(Phase::Completed).judged(true).verified(), (false, "CountedOnly"));
}

#[test]
fn without_a_comparison_the_progress_is_that_of_the_copy() {
    for phase in [Phase::Synced, Phase::CuttingOver, Phase::Completed] {
        let progress = World::in_phase(phase).counting().report(at(60)).progress;
        assert_eq!((progress.documents_done, progress.documents), (310, 310), "{phase}");
        assert_eq!((progress.collections_done, progress.collections), (1, 1), "{phase}");
        assert!((progress.percent - 100.0).abs() < f64::EPSILON, "{phase}: {}", progress.percent);
    }
}

#[test]
fn a_cutover_says_since_when_writers_are_refused_and_until_when_at_most() {
    let mut world = World::in_phase(Phase::CuttingOver);
    world.spec.cutover.timeout = Duration::from_mins(10);
    world.seen.cutover.started_at = Some(at(0));
    assert_eq!(world.report(at(1)).message, "last pass and verdict; no writer is refused yet");
    // 2027-01-15T08:00:02.5Z
    world.seen.cutover.blocked_at = Some(at(2).checked_add(SignedDuration::from_millis(500)).unwrap());
    let message = world.report(at(3)).message;
    assert_eq!(
        message,
        "writers are refused since 2027-01-15T08:00:02Z: last pass and verdict; given up after 2027-01-15T08:10:00Z \
         unless it is done; spec.suspend: true gives it up now"
    );
    assert_eq!(world.report(at(500)).message, message, "the same as long as the attempt lasts");
}

#[test]
fn a_cutover_that_refuses_no_writer_does_not_say_so() {
    let mut world = World::in_phase(Phase::CuttingOver);
    world.spec.cutover.source_writes = SourceWrites::Allow;
    world.seen.cutover.started_at = Some(at(0));
    assert_eq!(world.report(at(500)).message, "last pass and verdict; no writer is refused");
}

#[test]
fn a_pass_that_is_not_copied_makes_no_lag_smaller() {
    let mut world = World::in_phase(Phase::Synced);
    let lag = |world: &World| world.report(at(70)).lag.map(|lag| lag.as_secs());
    (world.seen.copied_until, world.seen.pass_taken_at) = (Some(at(10)), Some(at(60)));
    assert_eq!(lag(&world), Some(10));
    world.seen.copy.open = 3;
    assert_eq!(lag(&world), Some(60));
    // Before a pass was copied, or by a clock that was set back since, nobody knows.
    for copied_until in [None, Some(at(71))] {
        world.seen.copied_until = copied_until;
        assert_eq!(lag(&world), None);
    }
}

/// What a complete merge of collection 7 says of these newcomers, of so many.
fn told_of(collections: std::ops::Range<i64>, total: u64) -> Report {
    let mut world = World::in_phase(Phase::Completed).judged(false);
    let indices = collections.map(|collection| (collection, collection.to_string())).collect();
    world.rows.memo.newcomers = NewcomersMemo { looked_at: Some(at(0)), indices, total };
    world.report(at(60))
}

#[test]
fn a_complete_merge_says_which_collections_came_after_the_verdict_and_what_to_do() {
    let report = told_of(0..0, 0);
    assert_eq!((report.message.as_str(), report.attention.len()), ("all is well", 0));

    let report = told_of(8..9, 1);
    assert_eq!(
        report.message,
        "all is well; what came after the verdict is not merged (see status.attention)"
    );
    assert_eq!((report.phase, report.attention_total), (Phase::Completed, 1));
    let told = &report.attention[0];
    assert_eq!((told.collection, told.reason.as_str()), (8, NOT_MERGED));
    assert!(told.message.contains("is not merged; unless applications"), "{}", told.message);
    assert!(told.message.ends_with("spec.collections.include: [8]"), "{}", told.message);

    let report = told_of(8..11, 3);
    let told = &report.attention[0];
    assert!(told.message.contains("is not merged, nor is that of 2 more; "), "{}", told.message);
    assert!(told.message.ends_with("spec.collections.include: [8, 9, 10]"), "{}", told.message);
    assert_eq!(report.attention.len(), 1);
}

#[test]
fn an_index_that_was_made_anew_after_the_verdict_has_another_remedy() {
    let report = told_of(7..9, 2);
    let [anew, new] = &report.attention[..] else { panic!("{:?}", report.attention) };
    assert_eq!((anew.collection, new.collection), (7, 8));
    assert!(anew.message.contains("was made anew") && anew.message.contains("[7]"), "{}", anew.message);
    assert!(new.message.ends_with("spec.collections.include: [8]"), "{}", new.message);
}

#[test]
fn of_many_newcomers_some_are_named_and_the_message_fits_the_status() {
    let first = 2_147_483_000;
    let report = told_of(first..first + 100, 5_000);
    let told = &report.attention[0];
    assert!(told.message.contains("nor is that of 4999 more"), "{}", told.message);
    assert!(told.message.ends_with(", ...]") && told.message.len() <= 512, "{}", told.message);
}

#[test]
fn what_came_after_the_verdict_is_told_before_anything_else() {
    let mut world = World::in_phase(Phase::Completed).judged(false);
    world.rows.quarantine = BTreeMap::from([(7, BTreeMap::from([("content".to_owned(), 1)]))]);
    let indices = BTreeMap::from([(8, "8".to_owned())]);
    world.rows.memo.newcomers = NewcomersMemo { looked_at: None, indices, total: 1 };
    let reasons: Vec<String> =
        world.report(at(60)).attention.into_iter().map(|attention| attention.reason).collect();
    assert_eq!(reasons, [NOT_MERGED, "Quarantined"]);
}
