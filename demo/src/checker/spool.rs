//! The destination's documents on disk, by id: memory holds the ids only, however large the vectors are.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result};

/// Documents in an unnamed temporary file, which disappears with the process.
pub struct Spool {
    writer: BufWriter<File>,
    reader: File,
    end: u64,
    places: HashMap<String, (u64, usize)>,
}

impl Spool {
    /// An empty one, in the folder for temporary files.
    pub fn new() -> Result<Self> {
        let reader = tempfile::tempfile().context("cannot make a temporary file; is there room?")?;
        let writer = BufWriter::new(reader.try_clone().context("cannot use the temporary file twice")?);
        Ok(Self { writer, reader, end: 0, places: HashMap::new() })
    }

    /// Adds a document; a second one with the same id replaces it.
    pub fn put(&mut self, id: String, source: &str) -> Result<()> {
        self.writer
            .write_all(source.as_bytes())
            .context("cannot write the temporary file; is there room?")?;
        self.places.insert(id, (self.end, source.len()));
        self.end += source.len() as u64;
        Ok(())
    }

    /// The document with this id.
    pub fn get(&self, id: &str) -> Result<Option<String>> {
        let Some((at, length)) = self.places.get(id) else { return Ok(None) };
        let mut bytes = vec![0; *length];
        self.reader.read_exact_at(&mut bytes, *at).context("cannot read the temporary file")?;
        String::from_utf8(bytes).map(Some).context("the temporary file was changed by others")
    }

    /// Writes out what is buffered; to be called once before the first [`Spool::get`].
    pub fn finish(&mut self) -> Result<()> {
        self.writer.flush().context("cannot write the temporary file; is there room?")
    }

    /// How many documents.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// All ids, in no order.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }
}
