//! The verdict: over every collection, from what was compared, or only counted, as `spec.verification.mode` asks.

use crate::merge::engine::Engine;
use crate::merge::error::MergeError;
use crate::merge::memo::VerdictMemo;
use crate::merge::valid::{UnknownDocuments, ValidMerge, Verification};
use crate::state::CollectionVerdict;

/// Collections that the message of a negative verdict names.
const NAMED: usize = 5;

/// Judges and stores the verdict.
pub(super) async fn judge(engine: &Engine, spec: &ValidMerge) -> Result<(), MergeError> {
    let verdicts = engine.state.verdicts(engine.id).await?;
    let in_destination =
        engine.destination.count(&spec.destination.index).await.map_err(MergeError::Destination)?;
    let verdict = verdict(spec, &verdicts, in_destination);
    tracing::info!(positive = verdict.positive, message = verdict.message, "verdict");
    engine.edit_memo(|memo| memo.verdict = Some(verdict)).await.map(drop)
}

/// The verdict over the collections' verdicts. Pure.
fn verdict(spec: &ValidMerge, verdicts: &[CollectionVerdict], in_destination: u64) -> VerdictMemo {
    let unequal: Vec<&CollectionVerdict> = verdicts.iter().filter(|verdict| !verdict.verdict).collect();
    let quarantined: u64 = verdicts.iter().map(|verdict| verdict.quarantined.max(0).unsigned_abs()).sum();
    let ours: u64 = verdicts.iter().map(|verdict| verdict.destination_documents.max(0).unsigned_abs()).sum();
    let unknown_documents = in_destination.saturating_sub(ours);
    let mut faults = Vec::new();
    if !unequal.is_empty() {
        let named: Vec<String> = unequal
            .iter()
            .take(NAMED)
            .map(|verdict| {
                let reason = verdict.reason.as_deref();
                format!("{}: {}", verdict.collection_id, reason.unwrap_or("see the table collection_verdict"))
            })
            .collect();
        let others = match unequal.len() - named.len() {
            0 => String::new(),
            others => format!("; and {others} more, see the table collection_verdict"),
        };
        faults.push(format!("{} collections are not equal ({}{others})", unequal.len(), named.join("; ")));
    }
    let most = spec.tolerations.max_quarantined;
    if quarantined > most {
        faults.push(format!(
            "{quarantined} chunks are in quarantine, spec.tolerations.maxQuarantined allows {most}; mend them in the source (es-index-merge quarantine list tells why), or raise it"
        ));
    }
    if unknown_documents > 0 && spec.tolerations.unknown_documents == UnknownDocuments::Refuse {
        faults.push(format!(
            "{unknown_documents} documents of the destination belong to no collection of this merge; delete them, or set spec.tolerations.unknownDocuments to Keep"
        ));
    }
    let message = if faults.is_empty() {
        let what = match spec.verification {
            Verification::Full => "are equal in every chunk",
            Verification::Counts => "have as many chunks on both sides (counted, not compared)",
        };
        let tolerated = match quarantined {
            0 => String::new(),
            chunks => format!(", {chunks} chunks in quarantine are tolerated"),
        };
        format!("{} collections {what}: {ours} documents{tolerated}", verdicts.len())
    } else {
        faults.join("; ")
    };
    VerdictMemo {
        positive: faults.is_empty(),
        collections: verdicts.len() as u64,
        unequal: unequal.len() as u64,
        quarantined,
        unknown_documents,
        counted_only: spec.verification == Verification::Counts,
        message,
        basis: spec.verdict_basis(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merge::valid::test_merge;

    fn collection(collection_id: i64, quarantined: i64) -> CollectionVerdict {
        CollectionVerdict {
            collection_id,
            source_documents: 5 + quarantined,
            destination_documents: 5,
            compared: 5,
            different: 0,
            quarantined,
            collapsed: 0,
            verdict: true,
            reason: None,
        }
    }

    fn tolerant(verification: Verification) -> ValidMerge {
        let mut spec = test_merge();
        spec.verification = verification;
        spec.tolerations.max_quarantined = 10;
        spec
    }

    #[test]
    fn what_was_only_counted_is_not_called_equal() {
        let verdicts = [collection(1, 0), collection(2, 0)];
        let compared = verdict(&tolerant(Verification::Full), &verdicts, 10);
        assert_eq!(compared.message, "2 collections are equal in every chunk: 10 documents");
        assert!(compared.positive && !compared.counted_only);
        let counted = verdict(&tolerant(Verification::Counts), &verdicts, 10);
        assert_eq!(
            counted.message,
            "2 collections have as many chunks on both sides (counted, not compared): 10 documents"
        );
        assert!(counted.positive && counted.counted_only);
    }

    #[test]
    fn chunks_that_are_tolerated_in_quarantine_are_told() {
        let verdict = verdict(&tolerant(Verification::Full), &[collection(1, 0), collection(2, 3)], 10);
        assert!(verdict.positive);
        assert_eq!(
            verdict.message,
            "2 collections are equal in every chunk: 10 documents, 3 chunks in quarantine are tolerated"
        );
    }

    #[test]
    fn a_negative_verdict_names_some_collections_and_where_the_others_are() {
        let unequal = |collection_id| CollectionVerdict {
            verdict: false,
            reason: Some("IndexClosed: it is closed; open it".to_owned()),
            ..collection(collection_id, 0)
        };
        let verdicts: Vec<CollectionVerdict> = (1..=7).map(unequal).collect();
        let few = verdict(&tolerant(Verification::Full), &verdicts[..1], 5);
        assert_eq!(few.message, "1 collections are not equal (1: IndexClosed: it is closed; open it)");
        let many = verdict(&tolerant(Verification::Full), &verdicts, 35);
        let message = many.message;
        assert!(message.starts_with("7 collections are not equal (1: "), "{message}");
        assert!(message.ends_with("; and 2 more, see the table collection_verdict)"), "{message}");
        assert!(!many.positive && !message.contains("6: "), "{message}");
    }

    #[test]
    fn what_stands_in_the_way_of_the_verdict_comes_with_its_remedy() {
        let mut spec = tolerant(Verification::Full);
        spec.tolerations.unknown_documents = UnknownDocuments::Refuse;
        let verdict = verdict(&spec, &[collection(1, 11)], 7);
        assert_eq!(
            verdict.message,
            "11 chunks are in quarantine, spec.tolerations.maxQuarantined allows 10; mend them in the source \
             (es-index-merge quarantine list tells why), or raise it; 2 documents of the destination belong to no \
             collection of this merge; delete them, or set spec.tolerations.unknownDocuments to Keep"
        );
    }
}
