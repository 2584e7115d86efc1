//! `quarantine`: the chunks that could not be copied. Looks into the state database and nowhere else.
//!
//! `retry` only plans the comparison; the merge (its controller, or the next `run`) carries it out. A chunk stays in
//! quarantine until that says otherwise.

use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use base64::Engine as _;
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use serde_json::value::RawValue;

use super::JobArgs;
use super::manifest::Job;
use crate::merge::{Phase, secrets};
use crate::state::{MergeRow, QuarantineFilter, QuarantinedRow, State, StateError};

/// Chunks that are read at once.
const PAGE: i64 = 500;
/// Of a reason in a table, in characters.
const SHORT: usize = 100;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List them, without their content.
    List {
        #[command(flatten)]
        job: JobArgs,
        #[command(flatten)]
        filter: FilterArgs,
        /// How.
        #[arg(short, long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Show one, with the reason and the original as it came.
    Show {
        #[command(flatten)]
        job: JobArgs,
        /// The collection.
        collection: i64,
        /// The chunk's `_id` in the source.
        chunk_id: String,
    },
    /// Write them all as lines of JSON, with their originals.
    Export {
        #[command(flatten)]
        job: JobArgs,
        #[command(flatten)]
        filter: FilterArgs,
        /// Where to; standard output if left out.
        #[arg(short, long, value_name = "FILE")]
        to: Option<PathBuf>,
    },
    /// Have them copied and compared again.
    Retry {
        #[command(flatten)]
        job: JobArgs,
        #[command(flatten)]
        filter: FilterArgs,
    },
}

/// Which chunks.
#[derive(Debug, Args)]
pub(super) struct FilterArgs {
    /// Only those of this collection.
    #[arg(long, value_name = "ID")]
    collection: Option<i64>,
    /// Only those of this class: `not_json`, `key`, `content`, `vector`, `Refused`, `Collision`, `Different`.
    #[arg(long)]
    class: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Output {
    /// For people.
    Table,
    /// One JSON array.
    Json,
}

/// Carries the command out.
pub(super) async fn run(command: Command) -> anyhow::Result<ExitCode> {
    let done = match command {
        Command::List { job, filter, output } => list(job.load().await?, filter.into(), output).await,
        Command::Show { job, collection, chunk_id } => show(job.load().await?, collection, &chunk_id).await,
        Command::Export { job, filter, to } => export(job.load().await?, filter.into(), to).await,
        Command::Retry { job, filter } => retry(job.load().await?, filter.into()).await,
    };
    match done {
        // Whoever reads has seen enough (`| head`).
        Err(error) if is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
        done => done,
    }
}

async fn list(job: Job, filter: QuarantineFilter, output: Output) -> anyhow::Result<ExitCode> {
    let (state, merge) = open(&job).await?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut first = true;
    if matches!(output, Output::Table) {
        writeln!(
            out,
            "{:<12} {:<24} {:<10} {:>12} {:<20} REASON",
            "COLLECTION", "CHUNK", "CLASS", "SEQ_NO", "SEEN"
        )?;
    }
    for_each_page(&state, &merge, &filter, async |rows| {
        for row in rows {
            match output {
                Output::Table => writeln!(out, "{}", line(row))?,
                Output::Json => {
                    write!(out, "{}", if first { "[\n " } else { ",\n " })?;
                    serde_json::to_writer(&mut out, &Listed::from(row))?;
                }
            }
            first = false;
        }
        Ok(())
    })
    .await?;
    if matches!(output, Output::Json) {
        writeln!(out, "{}", if first { "[]" } else { "\n]" })?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

async fn show(job: Job, collection: i64, chunk_id: &str) -> anyhow::Result<ExitCode> {
    let (state, merge) = open(&job).await?;
    let filter = QuarantineFilter { collection: Some(collection), class: None };
    let mut out = std::io::stdout().lock();
    let mut found = false;
    for_each_page(&state, &merge, &filter, async |rows| {
        for row in rows.iter().filter(|row| row.chunk_id == chunk_id) {
            found = true;
            let destination = row.destination_id.as_deref().unwrap_or("(it has no key)");
            writeln!(out, "collection   {}, index {}", row.collection_id, row.index_name)?;
            writeln!(out, "chunk        {}", row.chunk_id)?;
            writeln!(out, "destination  {destination}")?;
            writeln!(out, "shard        {}, sequence number {}", row.shard, row.seq_no)?;
            writeln!(out, "class        {}", row.class)?;
            writeln!(out, "reason       {}", row.reason)?;
            writeln!(out, "seen         {}", row.seen_at)?;
            match row.bytes {
                Some(bytes) => writeln!(out, "original     {bytes} bytes")?,
                None => writeln!(out, "original     in the index {} only, under that _id", row.index_name)?,
            }
            out.write_all(&original(&state, &merge, row).await?.unwrap_or_default())?;
            writeln!(out)?;
        }
        Ok(())
    })
    .await?;
    if !found {
        bail!("chunk {chunk_id:?} of collection {collection} is not in quarantine");
    }
    Ok(ExitCode::SUCCESS)
}

async fn export(job: Job, filter: QuarantineFilter, to: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    let (state, merge) = open(&job).await?;
    let file: Box<dyn Write> = match &to {
        Some(path) => {
            Box::new(File::create(path).with_context(|| format!("{} cannot be written", path.display()))?)
        }
        None => Box::new(std::io::stdout().lock()),
    };
    let mut out = BufWriter::new(file);
    for_each_page(&state, &merge, &filter, async |rows| {
        for row in rows {
            let bytes = original(&state, &merge, row).await?;
            serde_json::to_writer(&mut out, &Exported::new(row, bytes.as_deref()))?;
            writeln!(out)?;
        }
        Ok(())
    })
    .await?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

async fn retry(job: Job, filter: QuarantineFilter) -> anyhow::Result<ExitCode> {
    let (state, merge) = open(&job).await?;
    let phase = Phase::parse(&merge.phase);
    if merge.released_at.is_some() || phase == Some(Phase::Completed) {
        bail!("the merge is over, nothing is copied any more; what is in quarantine can still be exported");
    }
    if phase == Some(Phase::CuttingOver) {
        bail!("the merge is cutting over; wait for its verdict, which takes a few minutes at most");
    }
    let chunks = state.retry_quarantined(merge.id, &filter).await.map_err(told)?;
    println!("{chunks} chunks will be copied and compared again");
    if chunks > 0 && phase == Some(Phase::Failed) {
        println!("the merge goes on when it is run again, or with a new spec.retryToken");
    }
    Ok(ExitCode::SUCCESS)
}

/// The merge that the manifest describes, in the state database that it names.
async fn open(job: &Job) -> anyhow::Result<(State, MergeRow)> {
    let login = secrets::resolve_state(&job.resource.spec, &job.secrets).await?;
    let state = State::connect_existing(&login, &job.merge.state_schema).await.map_err(told)?;
    if let Some(merge) = state.merge_of(&job.merge.owner, &job.merge.identity()).await.map_err(told)? {
        return Ok((state, merge));
    }
    let owners = state.owners().await.map_err(told)?;
    bail!(
        "the state database knows no merge {} of that source and destination; it knows {}{}",
        job.merge.owner,
        if owners.is_empty() { "none".to_owned() } else { owners.join(", ") },
        if owners.is_empty() { "" } else { " (a resource of Kubernetes needs its metadata.namespace)" }
    )
}

/// Calls `each` with one page after another, so that memory is bounded.
async fn for_each_page(
    state: &State,
    merge: &MergeRow,
    filter: &QuarantineFilter,
    mut each: impl AsyncFnMut(&[QuarantinedRow]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut after: Option<QuarantinedRow> = None;
    loop {
        let page = state.quarantine_page(merge.id, filter, after.as_ref(), PAGE).await.map_err(told)?;
        each(&page).await?;
        after = page.into_iter().last();
        if after.is_none() {
            return Ok(());
        }
    }
}

/// The chunk as it was read; `None` where that is not stored, or the chunk left the quarantine meanwhile.
async fn original(state: &State, merge: &MergeRow, row: &QuarantinedRow) -> anyhow::Result<Option<Vec<u8>>> {
    state.quarantine_original(merge.id, row).await.map_err(told)
}

#[allow(clippy::needless_pass_by_value)] // as `map_err` wants it
fn told(error: StateError) -> anyhow::Error {
    anyhow!(
        "the state's Postgres (spec.state.postgres, or else spec.collections.postgres): {error}; {}",
        error.remedy()
    )
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let of_io = |error: &std::io::Error| error.kind() == ErrorKind::BrokenPipe;
    error.chain().any(|cause| {
        cause.downcast_ref::<std::io::Error>().is_some_and(of_io)
            || cause.downcast_ref::<serde_json::Error>().and_then(serde_json::Error::io_error_kind)
                == Some(ErrorKind::BrokenPipe)
    })
}

/// A line of the table.
fn line(row: &QuarantinedRow) -> String {
    let mut reason: String = row.reason.chars().take(SHORT).collect();
    if row.reason.chars().nth(SHORT).is_some() {
        reason.push('…');
    }
    let seen = row.seen_at.strftime("%Y-%m-%dT%H:%M:%SZ");
    format!(
        "{:<12} {:<24} {:<10} {:>12} {seen:<20} {reason}",
        row.collection_id, row.chunk_id, row.class, row.seq_no
    )
}

/// What is told of a chunk in JSON.
#[derive(Serialize)]
struct Listed<'a> {
    collection: i64,
    index: &'a str,
    chunk_id: &'a str,
    destination_id: Option<&'a str>,
    shard: i32,
    seq_no: i64,
    class: &'a str,
    reason: &'a str,
    seen_at: String,
    bytes: Option<i64>,
}

impl<'a> From<&'a QuarantinedRow> for Listed<'a> {
    fn from(row: &'a QuarantinedRow) -> Self {
        Self {
            collection: row.collection_id,
            index: &row.index_name,
            chunk_id: &row.chunk_id,
            destination_id: row.destination_id.as_deref(),
            shard: row.shard,
            seq_no: row.seq_no,
            class: &row.class,
            reason: &row.reason,
            seen_at: row.seen_at.to_string(),
            bytes: row.bytes,
        }
    }
}

/// A line of the export: `original` where the bytes are JSON, `original_base64` where they are not, neither where they are in
/// the source's index only.
#[derive(Serialize)]
struct Exported<'a> {
    #[serde(flatten)]
    listed: Listed<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    original: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    original_base64: Option<String>,
}

impl<'a> Exported<'a> {
    fn new(row: &'a QuarantinedRow, bytes: Option<&[u8]>) -> Self {
        let original = bytes.and_then(one_line);
        let encode = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
        let original_base64 = bytes.filter(|_| original.is_none()).map(encode);
        Self { listed: row.into(), original, original_base64 }
    }
}

/// The same JSON, number by number as it was written, on one line: a line break in JSON is never inside of a string.
fn one_line(bytes: &[u8]) -> Option<Box<RawValue>> {
    let text = std::str::from_utf8(bytes).ok()?.replace(['\n', '\r'], " ");
    RawValue::from_string(text).ok()
}

impl From<FilterArgs> for QuarantineFilter {
    fn from(args: FilterArgs) -> Self {
        Self { collection: args.collection, class: args.class }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn row() -> QuarantinedRow {
        QuarantinedRow {
            source: 1,
            index_name: "7".to_owned(),
            shard: 0,
            collection_id: 7,
            chunk_id: "a".to_owned(),
            destination_id: None,
            seq_no: 3,
            class: "vector".to_owned(),
            reason: "é".repeat(SHORT + 1),
            bytes: Some(4),
            seen_at: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    fn exported(bytes: &[u8]) -> String {
        serde_json::to_string(&Exported::new(&row(), Some(bytes))).unwrap()
    }

    #[test]
    fn an_original_is_exported_as_it_was_written_and_on_one_line() {
        let line = exported(b"{\n \"embedding\":[0.10000000000000000001, 1e5]\r\n}");
        assert!(line.contains(r#""original":{  "embedding":[0.10000000000000000001, 1e5]  }"#), "{line}");
        let start = r#"{"collection":7,"index":"7","chunk_id":"a","destination_id":null,"shard":0,"#;
        assert!(line.starts_with(start), "{line}");
        assert!(!line.contains('\n') && !line.contains("base64"), "{line}");
    }

    #[test]
    fn what_is_no_json_is_exported_as_base64() {
        for bytes in [&b"{\"a\":"[..], b"", &[0xff, 0xfe]] {
            let line = exported(bytes);
            let encoded = base64::engine::general_purpose::STANDARD.encode(bytes);
            assert!(line.ends_with(&format!(r#""original_base64":"{encoded}"}}"#)), "{line}");
        }
    }

    #[test]
    fn what_is_not_stored_is_exported_with_the_index_that_has_it() {
        let row = QuarantinedRow { bytes: None, ..row() };
        let line = serde_json::to_string(&Exported::new(&row, None)).unwrap();
        assert!(line.contains(r#""index":"7""#) && line.ends_with(r#""bytes":null}"#), "{line}");
    }

    #[test]
    fn a_long_reason_is_shortened_in_a_table_between_characters() {
        assert!(line(&row()).ends_with(&format!("{}…", "é".repeat(SHORT))));
    }
}
