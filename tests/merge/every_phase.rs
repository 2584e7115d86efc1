//! One merge is met at the end of each of its phases: collections come, go and change their nature there; or the destination
//! goes.

use std::collections::BTreeMap;

use demo::cluster::Method;
use futures::future::join_all;

use crate::comings::{rename, rename_back};
use crate::gates::Gates;
use crate::late::{held, is_blocked};
use crate::scene::{DIMENSIONS, Flavor, Scene};
use crate::session::Session;
use crate::shelf::{Chunk, Shelf};

/// The phases of a merge up to its verdict.
const PHASES: [&str; 6] = ["Preparing", "Copying", "Indexing", "Verifying", "Synced", "CuttingOver"];
/// The last of them, in which sources refuse writes.
const CUTOVER: usize = PHASES.len() - 1;
/// Chunks of a collection at first.
const CHUNKS: i64 = 4;

/// What becomes of a collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Created,
    Emptied,
    /// Its index is deleted, and in the next phase its row.
    IndexGoesFirst,
    /// The other way round.
    RowGoesFirst,
    /// Its index is deleted and another one made.
    MadeAnew,
    /// Its index is closed, and opened in the next phase.
    Closed,
    /// Its index gets another name, and its id becomes an alias.
    Renamed,
}

const KINDS: [Kind; 7] = [
    Kind::Created,
    Kind::Emptied,
    Kind::IndexGoesFirst,
    Kind::RowGoesFirst,
    Kind::MadeAnew,
    Kind::Closed,
    Kind::Renamed,
];

/// A collection, and what becomes of it in one of the phases.
struct Coming<'a> {
    scene: &'a Scene,
    kind: Kind,
    phase: usize,
    shelf: Shelf<'a>,
}

impl<'a> Coming<'a> {
    /// As it is before the merge begins.
    async fn begin(scene: &'a Scene, kind: Kind, phase: usize, collection: i64) -> Coming<'a> {
        let shelf = if kind == Kind::Created {
            Shelf::nameless(scene, collection)
        } else {
            let shelf = Shelf::create(scene, collection, 1).await;
            shelf.put_document(collection, CHUNKS, "before").await;
            shelf
        };
        Coming { scene, kind, phase, shelf }
    }

    /// What happens to it in its phase.
    async fn happens(&self) {
        let Coming { scene, shelf, .. } = self;
        let document = shelf.collection;
        match self.kind {
            Kind::Created => {
                let created = Shelf::create(scene, document, 2).await;
                created.put_document(document, CHUNKS, "created").await;
            }
            Kind::Emptied => shelf.delete_document(document).await,
            Kind::IndexGoesFirst => shelf.delete_index().await,
            Kind::RowGoesFirst => shelf.delete_row().await,
            Kind::MadeAnew => {
                shelf.delete_index().await;
                shelf.create_index(3).await;
                // One of the old keys with other words, and a new one.
                shelf.put(&[Chunk(document, 1, "anew"), Chunk(document, 9, "anew")]).await;
            }
            Kind::Closed => {
                let path = format!("/{}/_close", shelf.index);
                scene.source_cluster.require(Method::POST, &path, None).await.unwrap();
                if self.phase == CUTOVER {
                    // The verdict would be negative without it.
                    self.opens().await;
                }
            }
            Kind::Renamed => {
                rename(scene, shelf).await;
                shelf.put(&[Chunk(document, 50, "behind the alias")]).await;
            }
        }
    }

    /// What follows in the next phase.
    async fn goes_on(&self) {
        match self.kind {
            Kind::IndexGoesFirst => self.shelf.delete_row().await,
            Kind::RowGoesFirst => self.shelf.delete_index().await,
            Kind::Closed if self.phase < CUTOVER => {
                self.opens().await;
                self.shelf.put(&[Chunk(self.shelf.collection, 60, "open again")]).await;
            }
            Kind::Closed | Kind::Created | Kind::Emptied | Kind::MadeAnew | Kind::Renamed => {}
        }
    }

    async fn opens(&self) {
        let path = format!("/{}/_open", self.shelf.index);
        self.scene.source_cluster.require(Method::POST, &path, None).await.unwrap();
    }

    /// Its index, if it is merged in the end.
    fn index(&self) -> Option<String> {
        match self.kind {
            Kind::IndexGoesFirst | Kind::RowGoesFirst => None,
            Kind::Renamed => Some(format!("renamed-{}", self.shelf.index)),
            Kind::Created | Kind::Emptied | Kind::MadeAnew | Kind::Closed => Some(self.shelf.index.clone()),
        }
    }

    /// The words that are to be in the destination, by chunk number.
    fn expected(&self) -> BTreeMap<i64, String> {
        let all = |words: &str| {
            let chunk = |number: i64| (number, format!("{words} {} {number}", self.shelf.collection));
            (0..CHUNKS).map(chunk).collect::<BTreeMap<i64, String>>()
        };
        let and = |mut chunks: BTreeMap<i64, String>, number: i64, words: &str| {
            chunks.insert(number, words.to_owned());
            chunks
        };
        match self.kind {
            Kind::Created => all("created"),
            Kind::Emptied | Kind::IndexGoesFirst | Kind::RowGoesFirst => BTreeMap::new(),
            Kind::MadeAnew => and(and(BTreeMap::new(), 1, "anew"), 9, "anew"),
            Kind::Closed if self.phase == CUTOVER => all("before"),
            Kind::Closed => and(all("before"), 60, "open again"),
            Kind::Renamed => and(all("before"), 50, "behind the alias"),
        }
    }

    /// Those that are there.
    async fn found(&self) -> BTreeMap<i64, String> {
        let there = self.shelf.in_destination().await;
        let words = |hit: &serde_json::Value| hit["_source"]["content"].as_str().unwrap().to_owned();
        there.iter().map(|(&(_, number), hit)| (number, words(hit))).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn collections_that_come_and_go_in_each_phase_are_followed() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let _tables = Shelf::tables(&scene).await;
    let mut beginnings = Vec::new();
    for phase in 0..PHASES.len() {
        for (kind, at) in KINDS.into_iter().zip(0..) {
            // Where writes are refused nobody can empty it.
            if phase < CUTOVER || kind != Kind::Emptied {
                let collection = scene.first_id + 20 * i64::try_from(phase).unwrap() + at;
                beginnings.push(Coming::begin(&scene, kind, phase, collection));
            }
        }
    }
    let comings = join_all(beginnings).await;
    let mut gates = Gates::shut(&scene, &PHASES).await;
    let session = Session::start(&scene.manifest(DIMENSIONS)).await;
    for (at, phase) in PHASES.into_iter().enumerate() {
        gates.reached(&scene, phase).await;
        let of_the_last_phase = comings.iter().filter(|coming| coming.phase + 1 == at);
        join_all(of_the_last_phase.map(Coming::goes_on)).await;
        let of_this_phase = comings.iter().filter(|coming| coming.phase == at);
        join_all(of_this_phase.map(Coming::happens)).await;
        gates.open(phase).await;
    }
    let run = session.end().await;
    assert!(run.success, "{run:?}");
    for coming in &comings {
        let what = format!("{:?} in {}", coming.kind, PHASES[coming.phase]);
        assert_eq!(coming.found().await, coming.expected(), "{what}");
        if let Some(index) = coming.index() {
            assert!(is_blocked(&scene, &index).await, "{what}: it takes writes after the verdict");
        }
    }

    // What is left to be done. The checker knows no aliases.
    let of_the_cutover = comings.iter().filter(|coming| coming.phase == CUTOVER);
    join_all(of_the_cutover.map(Coming::goes_on)).await;
    for coming in comings.iter().filter(|coming| coming.kind == Kind::Renamed) {
        rename_back(&scene, &coming.shelf, &format!("renamed-{}", coming.shelf.index)).await;
    }
    let verdict = scene.check(DIMENSIONS).await;
    assert!(verdict.is_good(), "{verdict}");
}

/// The destination is deleted now; whatever the merge does next needs it.
async fn ends_without_its_destination(scene: &Scene, session: Session, shelf: &Shelf<'_>, phase: &str) {
    let run = session.end().await;
    assert!(!run.success && run.output.contains("is gone"), "{phase}: {run:?}");
    assert!(!scene.exists(&scene.index).await, "{phase}: it was created again");
    assert!(!is_blocked(scene, &shelf.index).await, "{phase}: a writer is refused");
}

async fn loses_its_destination_in(phase: &str) {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let _tables = Shelf::tables(&scene).await;
    let shelf = Shelf::create(&scene, scene.first_id, 1).await;
    shelf.put_document(scene.first_id, 5, "there").await;
    let mut gates = Gates::shut(&scene, &[phase]).await;
    let session = Session::start(&scene.manifest(DIMENSIONS)).await;
    gates.reached(&scene, phase).await;
    assert!(scene.destination_cluster.delete_index(&scene.index).await.unwrap());
    gates.open(phase).await;
    ends_without_its_destination(&scene, session, &shelf, phase).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_is_deleted_in_any_phase_ends_the_merge_and_is_not_made_again() {
    join_all(PHASES[..CUTOVER].iter().map(|phase| loses_its_destination_in(phase))).await;
}

/// No cutover is near.
#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_is_deleted_while_it_follows_the_sources_ends_the_merge() {
    let scene = Scene::new(Flavor::V9, Flavor::V8).await;
    let _tables = Shelf::tables(&scene).await;
    let shelf = Shelf::create(&scene, scene.first_id, 1).await;
    shelf.put_document(scene.first_id, 5, "there").await;
    let session = Session::start(&held(&scene.manifest(DIMENSIONS))).await;
    scene.wait_for_phase("Synced").await;
    assert!(scene.destination_cluster.delete_index(&scene.index).await.unwrap());
    ends_without_its_destination(&scene, session, &shelf, "Synced").await;
}
