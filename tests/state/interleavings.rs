//! Invariants 1 and 2 under any order of events: no position is lost, none is counted twice.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use es_index_merge::state::{LeasedUnit, UnitId, UnitKind};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::sync::Mutex;

use crate::fixture::{Fixture, LEASE, advance, quarantined, target};

/// What may happen to one of two workers.
#[derive(Debug, Clone, Copy)]
enum Event {
    Lease {
        worker: usize,
        documents: i64,
    },
    /// Sent once or, as after a lost answer, several times.
    Checkpoint {
        worker: usize,
        positions: i64,
        times: usize,
    },
    Renew {
        worker: usize,
    },
    GiveBack {
        worker: usize,
    },
    Fail {
        worker: usize,
    },
    /// The worker dies and forgets what it held; a new one comes in its place.
    Die {
        worker: usize,
    },
    Expire,
    PlanAgain,
}

fn event() -> impl Strategy<Value = Event> {
    let worker = 0..2usize;
    prop_oneof![
        3 => (worker.clone(), 1..200i64).prop_map(|(worker, documents)| Event::Lease { worker, documents }),
        6 => (worker.clone(), 1..40i64, 1..3usize)
            .prop_map(|(worker, positions, times)| Event::Checkpoint { worker, positions, times }),
        1 => worker.clone().prop_map(|worker| Event::Renew { worker }),
        1 => worker.clone().prop_map(|worker| Event::GiveBack { worker }),
        1 => worker.clone().prop_map(|worker| Event::Fail { worker }),
        1 => worker.prop_map(|worker| Event::Die { worker }),
        2 => Just(Event::Expire),
        1 => Just(Event::PlanAgain),
    ]
}

/// How long the logs of the two sources are, and in which ranges they are cut.
const LOGS: [i64; 2] = [230, 17];
const SPLIT: i64 = 60;

struct Model {
    fixture: Fixture,
    sources: Vec<i64>,
    held: [HashMap<UnitId, LeasedUnit>; 2],
    /// How often each position of each source was accepted.
    covered: HashMap<(i64, i64), u32>,
}

impl Model {
    async fn new() -> Self {
        let fixture = Fixture::new().await;
        let sources = fixture.sources([1, 2]).await;
        let model =
            Self { fixture, sources, held: [HashMap::new(), HashMap::new()], covered: HashMap::new() };
        model.plan().await;
        model
    }

    async fn plan(&self) -> u64 {
        let targets: Vec<_> = self.sources.iter().zip(LOGS).map(|(id, to)| target(*id, to)).collect();
        self.fixture.plan(UnitKind::Copy, &targets, SPLIT).await
    }

    async fn apply(&mut self, event: Event) {
        let state = self.fixture.state.clone();
        let leases = |held: &HashMap<UnitId, LeasedUnit>| {
            held.values().map(|unit| (unit.id, unit.epoch)).collect::<Vec<_>>()
        };
        match event {
            Event::Lease { worker, documents } => self.lease(worker, documents).await,
            Event::Checkpoint { worker, positions, times } => self.checkpoint(worker, positions, times).await,
            Event::Renew { worker } => {
                let kept = state.renew(&leases(&self.held[worker]), LEASE).await.unwrap();
                self.held[worker].retain(|id, _| kept.contains(id));
            }
            Event::GiveBack { worker } => {
                // It goes on regardless, as a worker does that is slow to stop.
                state.give_back(&leases(&self.held[worker])).await.unwrap();
            }
            Event::Fail { worker } => {
                for (unit, epoch) in leases(&self.held[worker]) {
                    state.fail_unit(unit, epoch, "failed", Duration::ZERO).await.unwrap();
                }
            }
            Event::Die { worker } => self.held[worker].clear(),
            Event::Expire => self.fixture.let_leases_expire().await,
            Event::PlanAgain => assert_eq!(self.plan().await, 0),
        }
    }

    async fn lease(&mut self, worker: usize, documents: i64) {
        let name = format!("worker-{worker}");
        let units = self
            .fixture
            .state
            .lease_units(self.fixture.merge, UnitKind::Copy, &name, LEASE, 10, documents)
            .await
            .unwrap();
        self.held[worker].extend(units.into_iter().map(|unit| (unit.id, unit)));
    }

    async fn checkpoint(&mut self, worker: usize, positions: i64, times: usize) {
        let units: Vec<LeasedUnit> = self.held[worker].values().cloned().collect();
        let steps: Vec<_> = units.iter().map(|unit| advance(unit, positions)).collect();
        // Every seventh chunk is refused.
        let rows: Vec<_> = units
            .iter()
            .zip(&steps)
            .flat_map(|(unit, step)| {
                (step.from..step.to)
                    .filter(|position| position % 7 == 0)
                    .map(|position| quarantined(unit, position))
            })
            .collect();
        let mut answers = Vec::new();
        for _ in 0..times {
            let merge = self.fixture.merge;
            answers.push(self.fixture.state.checkpoint(merge, &steps, &rows, &[]).await.unwrap());
        }
        assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "the same answer each time");
        for (unit, step) in units.iter().zip(&steps) {
            if !answers[0].contains(&unit.id) {
                self.held[worker].remove(&unit.id);
                continue;
            }
            for position in step.from..step.to {
                *self.covered.entry((unit.source, position)).or_default() += 1;
            }
            if step.to == unit.to {
                self.held[worker].remove(&unit.id);
            } else {
                self.held[worker].get_mut(&unit.id).unwrap().cursor = step.to;
            }
        }
    }

    async fn finish_and_check(mut self) {
        self.apply(Event::Expire).await;
        self.held[0].clear();
        for _ in 0..20 {
            self.lease(0, 1_000).await;
            self.checkpoint(0, SPLIT, 1).await;
        }
        let length: i64 = LOGS.iter().sum();
        assert_eq!(i64::try_from(self.covered.len()).unwrap(), length, "lost");
        assert!(self.covered.values().all(|times| *times == 1), "twice");
        let totals = self.fixture.state.totals(self.fixture.merge).await.unwrap();
        assert_eq!((totals.copy.positions_done, totals.copy.counts.documents), (length, length));
        assert_eq!(totals.copy.units, totals.copy.units_done);
        let refused: i64 = LOGS.iter().map(|to| (to - 1) / 7 + 1).sum();
        assert_eq!(totals.quarantined, refused);
    }
}

#[test]
fn no_order_of_events_loses_or_doubles_a_position() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let config = Config { cases: 24, failure_persistence: None, max_shrink_iters: 64, ..Config::default() };
    TestRunner::new(config)
        .run(&proptest::collection::vec(event(), 10..60), |events| {
            runtime.block_on(async {
                let mut model = Model::new().await;
                for event in &events {
                    model.apply(*event).await;
                }
                model.finish_and_check().await;
            });
            Ok(())
        })
        .unwrap();
}

/// Really at once: leases shorter than a checkpoint's round trip, so that they are lost all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn workers_that_keep_losing_their_leases_still_cover_each_position_once() {
    let fixture = Fixture::new().await;
    let sources = fixture.sources([1, 2, 3]).await;
    let targets: Vec<_> = sources.iter().map(|id| target(*id, 400)).collect();
    fixture.plan(UnitKind::Copy, &targets, 50).await;
    let covered: Arc<Mutex<HashMap<(i64, i64), u32>>> = Arc::default();
    let tasks: Vec<_> = (0..4)
        .map(|n| {
            let (state, merge, covered) = (fixture.state.clone(), fixture.merge, Arc::clone(&covered));
            tokio::spawn(async move {
                let worker = format!("worker-{n}");
                let lease = Duration::from_millis(5);
                loop {
                    let totals = state.totals(merge).await.unwrap().copy;
                    if totals.units_done == totals.units {
                        return;
                    }
                    let mut units =
                        state.lease_units(merge, UnitKind::Copy, &worker, lease, 4, 150).await.unwrap();
                    while !units.is_empty() {
                        let steps: Vec<_> = units.iter().map(|unit| advance(unit, 20)).collect();
                        let accepted = state.checkpoint(merge, &steps, &[], &[]).await.unwrap();
                        let mut map = covered.lock().await;
                        for (unit, step) in units.iter_mut().zip(&steps) {
                            unit.cursor = step.to;
                            for position in step.from..step.to {
                                *map.entry((unit.source, position)).or_default() +=
                                    u32::from(accepted.contains(&unit.id));
                            }
                        }
                        units.retain(|unit| accepted.contains(&unit.id) && unit.cursor < unit.to);
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        tokio::time::timeout(Duration::from_mins(2), task).await.expect("it ends").unwrap();
    }
    let map = covered.lock().await;
    assert_eq!(map.len(), 1_200);
    assert!(map.values().all(|times| *times == 1));
    let counts = fixture.state.totals(fixture.merge).await.unwrap().copy.counts;
    assert_eq!(counts.documents, 1_200);
}
