//! What is refused, in words and bounds: said by the API server (`rules`) and, where there is none, by the engine.
//!
//! A text follows the name of its field. Each `%s` in it is a value. None holds a single quote, which would end the
//! CEL text that it stands in.

/// Smallest and largest, as they are written in a resource.
pub(crate) type Bounds = (&'static str, &'static str);

/// `spec.workers.maxBytesInFlight`.
pub(crate) const BYTES_IN_FLIGHT: Bounds = ("1Mi", "16Gi");
/// `spec.cutover.maxLag`.
pub(crate) const MAX_LAG: Bounds = ("1s", "24h");
/// `spec.cutover.timeout`.
pub(crate) const TIMEOUT: Bounds = ("10s", "6h");
/// `spec.cutover.retainFor`.
pub(crate) const RETAIN_FOR: Bounds = ("0s", "8760h");

/// What the alias of the workers has more than the name of the index.
pub(crate) const WRITER_SUFFIX: &str = "-merge-writer";
/// Longest name of an alias, as of any index.
pub(crate) const ALIAS_BYTES: usize = 255;
/// Longest name of the destination: its workers need an alias of it.
pub(crate) const INDEX_NAME_BYTES: usize = ALIAS_BYTES - WRITER_SUFFIX.len();

pub(crate) const URL_WITH_CREDENTIALS: &str = "must not contain a user name or a password (\"@\"); put them into a \
     Secret and name it in credentialsSecretRef";
pub(crate) const URL_FORM: &str = "must be https://host:port (or http://), with a port from 1 to 65535, several nodes \
     of one cluster separated by commas, without query and fragment, for instance https://elasticsearch:9200";
pub(crate) const CA_OR_INSECURE: &str = "caSecretRef and insecureSkipVerify exclude each other; remove \
     insecureSkipVerify to verify the certificate against the given authority";
pub(crate) const INDEX_NAME: &str = "\"%s\" is not a name for an index: use at most 242 bytes (an alias of it ends in \
     -merge-writer, and may have 255) of lower case letters, digits, \"-\", \"_\" and \".\", and begin with a letter \
     or a digit";
pub(crate) const INDEX_IS_A_NUMBER: &str = "\"%s\" is a number, as the names of the sources are; choose a name with a \
     letter in it, for instance \"opengatellm\"";
pub(crate) const ALIAS_NAME: &str = "each must be a name for an alias: at most 255 bytes of lower case letters, digits, \
     \"-\", \"_\" and \".\", beginning with a letter or a digit";
pub(crate) const ALIAS_IS_A_NUMBER: &str = "contains \"%s\", which is a number, as the names of the sources are; choose \
     an alias with a letter in it";
pub(crate) const ALIAS_IS_THE_INDEX: &str =
    "contains \"%s\", which is the name of the destination index itself; remove it from the list";
pub(crate) const ALIAS_OF_THE_WRITERS: &str = "contains \"%s\", through which the merge itself writes until its \
     verdict; choose another alias";
pub(crate) const DELETION_OF_WHAT_IS_WRITTEN_TO: &str = "is \"%s\" and spec.cutover.sourceWrites is \"%s\": an index \
     that may be written to again is not deleted; set deleteSources to Never, or sourceWrites to Block";
pub(crate) const DELETION_OF_WHAT_WAS_COUNTED: &str = "is \"%s\" and spec.verification.mode is \"%s\": an index whose \
     chunks were not compared is not deleted; set deleteSources to Never, or the mode to Full";
pub(crate) const DELETION_OF_BOTH: &str = "is \"%s\" and spec.cutover.deleteSources is \"%s\": deleting the resource \
     would delete the only copy; set deletionPolicy to Retain, or deleteSources to Never";
pub(crate) const IN_BOTH_LISTS: &str = "%s is in include and in exclude; remove it from one of them";
pub(crate) const INT4_OF_AN_ODD_SIZE: &str = "is %s, and vectorIndexOptions.type \"%s\" needs an even number; choose \
     another type, for instance int8_hnsw";
pub(crate) const BBQ_OF_A_SHORT_VECTOR: &str = "is %s, and vectorIndexOptions.type \"%s\" needs at least 64; choose \
     another type, for instance int8_hnsw";
pub(crate) const GRAPH_OPTIONS_WITHOUT_A_GRAPH: &str = "type \"%s\" has no graph, so m and efConstruction mean \
     nothing; remove them, or choose a type that ends in hnsw";
pub(crate) const SCHEMA_IS_RESERVED: &str =
    "\"%s\" is reserved by Postgres; choose another name, for instance \"es_index_merge\"";

/// An amount outside its bounds.
pub(crate) fn bytes_outside((min, max): Bounds) -> String {
    format!("is \"%s\"; it must be an amount of bytes from {min} to {max}, for instance 64Mi")
}

/// A duration outside its bounds.
pub(crate) fn duration_outside((min, max): Bounds) -> String {
    format!("is \"%s\"; it must be a time from {min} to {max}, for instance 30s or 5m")
}

/// The text with these values, one for each `%s`.
pub(crate) fn with(text: &str, values: &[&str]) -> String {
    let mut parts = text.split("%s");
    let mut filled = parts.next().unwrap_or_default().to_owned();
    for (position, part) in parts.enumerate() {
        filled.push_str(values.get(position).copied().unwrap_or_default());
        filled.push_str(part);
    }
    filled
}
